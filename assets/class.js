// For a class: the walk on all of the screen with keys that a presenter has (those of a remote are Page Up and Down), and
// pages to print, which come as this component's value into the window that was opened at the click.
const walk = () => document.querySelector('#pf-walk .pf-walk');
const root = document.documentElement;
let paper = null;  // the window that waits for its page

const presenting = () => root.classList.contains('wk-presenting');

function present(on) {
  root.classList.toggle('wk-presenting', on);
  if (on) root.requestFullscreen?.().catch(() => {});  // inside another page it may not: the window is filled
  else if (document.fullscreenElement) document.exitFullscreen();
  walk().querySelector('[data-do="present"]').focus({ preventScroll: true });
}

document.addEventListener('fullscreenchange', () => { if (!document.fullscreenElement && presenting()) present(false); });

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('#pf-walk [data-do="present"], #pf-walk [data-print]');
  if (!button) return;
  if (!button.dataset.print) return void present(!presenting());
  paper = window.open('', '_blank');
  trigger('paper', { what: button.dataset.print });
});

function press(selector) {
  const button = walk()?.querySelector(selector);
  if (button && !button.disabled && !button.closest('[hidden]')) button.click();
}

const turn = (step, place) => () => press(walk().dataset.part === 'exercise' ? `.wk-turn .pf-btn:${place}-child` : `[data-go="${step}"]`);
const KEYS = {
  ArrowRight: turn(1, 'last'),
  PageDown: turn(1, 'last'),
  ArrowLeft: turn(-1, 'first'),
  PageUp: turn(-1, 'first'),
  ArrowDown: () => press('[data-way="next"]'),
  ArrowUp: () => press('[data-way="prev"]'),
  g: () => press('[data-do="guess"]'),
  s: () => press('[data-do="reveal"]'),
  Escape: () => present(false),
};

document.addEventListener('keydown', (event) => {
  if (!presenting() || event.altKey || event.ctrlKey || event.metaKey) return;
  const { target } = event;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const own = target.matches?.('select, input') || (target.closest?.('.wk-cell') && target.matches(':focus-visible'));
  if (own && key.startsWith('Arrow')) return;  // among patches, and among the choices of a list
  const grid = /^[1-9]$/.test(key) ? () => press(`[data-grid-of="${key}"]`) : null;
  const act = KEYS[key] ?? grid;
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();
  act();
}, true);

// Without leave to open a window the page is saved as a file.
watch('value', () => {
  if (!props.value) return;
  const [made, page] = [JSON.parse(props.value), paper];
  paper = null;
  if (!made.html) return void page?.close();  // a notice has said why
  if (!page || page.closed) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([made.html], { type: 'text/html' }));
    link.download = 'patchify.html';
    link.click();
    return void setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
  page.document.open();
  page.document.write(made.html);
  page.document.close();
  page.addEventListener('load', () => page.print(), { once: true });
});
