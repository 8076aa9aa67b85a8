// The Share menu: what it makes comes back as its value. Also what an address asks for when the page is opened with one.
const OPENS = ['q', 'words', 'box', 'object', 'index', 'level', 'boxes', 'rerank', 'top', 'look', 'tab'];
const SAYS = { link: 'Link copied.', embed: 'Code copied. Paste it into your page.', png: 'Picture saved.', svg: 'Drawing saved.', csv: 'Table saved.', json: 'File saved.' };
const TYPES = { svg: 'image/svg+xml', csv: 'text/csv', json: 'application/json' };
const [WIDTH, HEIGHT] = [1920, 1080];  // of the PNG
const LONGEST = 5000;  // characters of an address that are sent: the server refuses them before that
const menu = element.querySelector('.pf-share');
let number = 0;
let asked = null;  // what is being made, and for which button

function say(place, text) {
  place.querySelector('.pf-share-said').textContent = text;
}

function make(kind, button) {
  number += 1;
  asked = { number, kind, place: button.closest('.pf-share, .pf-facts') };
  if (kind !== 'link' && kind !== 'embed') say(asked.place, 'Making it …');
  trigger('make', { kind, number, look: button.dataset.look ? Number(button.dataset.look) : null });
}

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('[data-export]');
  if (button) make(button.dataset.export, button);
  else if (menu.open && !menu.contains(event.target)) menu.open = false;
});

document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !menu.open) return;
  menu.open = false;
  menu.querySelector('summary').focus();
});

menu.addEventListener('toggle', () => {
  say(menu, '');
  menu.querySelector('.pf-share-text').hidden = true;
});

// Links and code -----------------------------------------------------------------------------------------------

function chosenTab() {
  const name = document.querySelector('#pf-tabs [role="tab"][aria-selected="true"]')?.textContent.trim().toLowerCase().replace(/\s+/g, '-');
  return name && name !== 'search' ? `&tab=${name}` : '';
}

function address(query) {
  return `${location.origin}${location.pathname}?${query}${chosenTab()}`;
}

function frame(query) {
  const source = `${address(query)}&embed=1`.replaceAll('&', '&amp;').replaceAll('"', '&quot;');
  return `<iframe src="${source}" title="Patchify: find an object, and where it is" width="100%" height="620" style="border:0" loading="lazy" allow="clipboard-write"></iframe>`;
}

// Without leave to write the clipboard, the text stands selected in a field, so that Ctrl+C takes it.
async function copy(place, text, done) {
  const field = place.querySelector('.pf-share-text');
  field.value = text;
  field.hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    say(place, done);
  } catch (error) {
    field.focus();
    field.select();
    say(place, 'Press Ctrl+C (or Cmd+C) to copy it.');
  }
}

// Files --------------------------------------------------------------------------------------------------------

function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// The drawing as pixels. Safari paints pictures inside a drawing only the second time.
async function pixels(svg) {
  const image = new Image();
  const source = URL.createObjectURL(new Blob([svg], { type: TYPES.svg }));
  image.src = source;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0, WIDTH, HEIGHT);
  await new Promise((done) => { setTimeout(done, 100); });
  pen.drawImage(image, 0, 0, WIDTH, HEIGHT);
  URL.revokeObjectURL(source);
  return new Promise((done, failed) => { canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error('no picture'))), 'image/png'); });
}

async function deliver(made, place) {
  if (made.why) return say(place, made.why);
  if (made.kind === 'link') return copy(place, address(made.text), SAYS.link);
  if (made.kind === 'embed') return copy(place, frame(made.text), SAYS.embed);
  try {
    const blob = made.kind === 'png' ? await pixels(made.text) : new Blob([made.text], { type: TYPES[made.kind] });
    save(blob, `${made.name}.${made.kind}`);
    return say(place, SAYS[made.kind]);
  } catch (error) {
    return say(place, 'This browser cannot draw it as a PNG: take the SVG instead.');
  }
}

watch('value', () => {
  if (!props.value) return;
  const made = JSON.parse(props.value);
  if (made.kind === 'opened') return void opened(made);
  if (made.number < 0) return follow(made);
  if (!asked || made.number !== asked.number) return;
  deliver(made, asked.place);
  asked = null;
});

// A page opened by a link --------------------------------------------------------------------------------------

// Gradio shows what an answer brought some moments after it has come.
async function waitFor(selector) {
  for (let tries = 0; tries < 100; tries += 1) {
    const node = document.querySelector(selector);
    if (node) return node;
    await new Promise((done) => { setTimeout(done, 50); });
  }
  return null;
}

async function opened(made) {
  document.documentElement.classList.remove('pf-opening');
  if (made.tab) {
    const tabs = [...document.querySelectorAll('#pf-tabs [role="tab"]')];
    tabs.find((one) => one.textContent.trim().toLowerCase().replace(/\s+/g, '-') === made.tab)?.click();
  }
  if (made.look !== null) (await waitFor(`#pf-results [data-open="${made.look}"]`))?.click();
  window.patchifyFollow();
}

const parameters = new URLSearchParams(location.search);
function open(query) {
  document.documentElement.classList.add('pf-opening');
  setTimeout(() => document.documentElement.classList.remove('pf-opening'), 20000);
  trigger('opened', { query });
}
if (OPENS.some((name) => parameters.has(name))) open(location.search.slice(1, LONGEST));

// The address says what is shown, so that loading the page anew shows the same; of a visitor's own pictures it says nothing.
// Inside another page, the way to the whole one goes along too.
const out = element.querySelector('.pf-share-frame a');
let following = null;
let current = location.search;
let mine = null;  // the picture of a visitor's own that is the query
let newest = 0;  // number of the last address that was asked for; an answer to an older one is late
const begun = document.querySelector('.pf-example[aria-pressed="true"]')?.dataset.example;

// What Back takes back: another query, and a result that was opened. Other options belong to the step that they are of.
function step(search, name) {
  const given = new URLSearchParams(search);
  const query = given.get('q') ?? given.get('words') ?? `example-${begun}`;
  return { look: given.get('look'), query: [query, query === `example-${begun}` ? null : given.get('box'), name].join(' ') };
}

function follow(made) {
  if (made.number !== newest) return;
  const now = new URLSearchParams(location.search);
  for (const name of OPENS) now.delete(name);
  const said = [made.why ? '' : `${made.text}${chosenTab()}`, now.toString()].filter(Boolean).join('&');
  const before = step(location.search, mine);
  mine = made.why ? document.querySelector('.pf-stage')?.dataset.picture ?? 'mine' : null;
  const after = step(`?${said}`, mine);
  // Inside another page, Back is that page's.
  const same = window.top !== window || (before.query === after.query && before.look === after.look);
  history[same ? 'replaceState' : 'pushState']({ ...history.state, patchifyMine: mine }, '', `${location.pathname}${said ? `?${said}` : ''}${location.hash}`);
  current = location.search;
  out.href = made.why ? './' : `?${made.text}`;
}

window.addEventListener('popstate', () => {
  const own = history.state?.patchifyMine ?? null;
  if (current === location.search && mine === own) return;  // the part of the page after # changed
  const before = step(current, mine);
  const after = step(location.search, own);
  [current, mine] = [location.search, own];
  newest = 0;  // what is under way is of the page that was left
  clearTimeout(following);
  const modal = document.querySelector('#pf-detail .pf-modal');
  if (before.query !== after.query) {
    modal?.querySelector('[data-do="close"]').click();
    // A visitor's own picture has no address: the notice says that it is not there, and what is shown instead.
    open(own ? 'q=own' : location.search.slice(1, LONGEST));
  } else if (after.look === null) modal?.querySelector('[data-do="close"]').click();
  else document.querySelector(`#pf-results [data-open="${after.look}"]`)?.click();
});

window.patchifyFollow = () => {
  clearTimeout(following);
  if (document.documentElement.classList.contains('pf-opening')) return;  // the address leads, until it is opened
  following = setTimeout(() => {
    number += 1;
    const look = document.querySelector('#pf-detail .pf-modal')?.dataset.image;
    newest = -number;
    trigger('make', { kind: 'link', number: newest, look: look ? Number(look) : null });
  }, 400);
};

if (document.documentElement.classList.contains('pf-embed')) {
  parameters.delete('embed');
  out.href = `?${parameters}`;
}
