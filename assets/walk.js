// The walk: which step, which patches and which one of them is looked at, and the class's guess. All numbers are in the
// page already; the server is asked for another part, task, index, level, box or result.
const root = () => element.querySelector('.pf-walk');
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const json = (name) => JSON.parse(root().dataset[name]);
const LAB = [2, 3, 4];  // the steps on the gallery picture
let step = 1;
let stage = null;  // the set of patches that is drawn
let current = null;  // the patch that is looked at
let guess = null;  // nothing; or { tried, done } while the class guesses: patches that were wrong, and null, 'right' or 'shown'
const solved = new Map();  // task of the exercise -> how its guess ended, and after how many wrong ones
let side = false;  // whole pictures beside the patches
let sum = null;  // whose arithmetic is shown
let pictured = null;  // the picture that all this is about
let returning = null;  // selector of what has the focus when an answer comes

const level = () => Number(root().dataset.level);
const used = () => json('ends')[level() - 1];
const winner = () => json('winners')[level() - 1];
const cellAt = (cell) => find(`.wk-cell[data-cell="${cell}"]`);
const stageOf = (cell) => json('ends').findIndex((end) => cell < end) + 1;
const part = () => root().dataset.part;
const task = () => Number(root().dataset.task);
const hides = () => guess !== null && !guess.done;  // no similarity is on the page then, but those of wrong guesses
const patches = (count) => `${count} patch${count === 1 ? '' : 'es'}`;
const fill = (name, text) => { for (const node of all(`[data-fill="${name}"]`)) node.textContent = text; };

// What comes first among those that take part; as in the search, the first one of equals.
function placeOf(cell) {
  const scores = json('scores').slice(0, used());
  return 1 + scores.filter((score, n) => score > scores[cell] || (score === scores[cell] && n < cell)).length;
}

function ask(what, value, more = {}) {
  root().setAttribute('aria-busy', 'true');
  trigger('choose', { what, value, ...more });
}

function lay(node, cell) {
  const { left, top, width, height } = cellAt(cell).style;
  Object.assign(node.style, { left, top, width, height });
}

// The patch under the pointer: its number, where it lies, and what is in it.
function look(cell) {
  current = cell;
  const node = cellAt(cell);
  const [x1, y1, x2, y2] = node.dataset.box.split(',').map(Number);
  const image = find('[data-fill="crop"] img');
  const [width, height] = [Number(image.dataset.width), Number(image.dataset.height)];
  image.parentElement.style.setProperty('--ratio', (x2 - x1) / (y2 - y1));
  Object.assign(image.style, {
    width: `${(100 * width) / (x2 - x1)}%`, height: `${(100 * height) / (y2 - y1)}%`,
    left: `${(-100 * x1) / (x2 - x1)}%`, top: `${(-100 * y1) / (y2 - y1)}%`,
  });
  const shown = (!hides() && step > 2) || guess?.tried.includes(cell);
  fill('score', shown ? node.dataset.score : '?');
  fill('cell-where', node.dataset.where);
  const round = (value) => String(Math.round(value));
  fill('cell-box', `x ${round(x1)} to ${round(x2)}, y ${round(y1)} to ${round(y2)} pixels (${round(x2 - x1)} × ${round(y2 - y1)})`);
  fill('cell-place', shown && !hides() ? `number ${placeOf(cell)} of ${patches(used())}` : '');
  fill('under', cell === winner() && shown && !hides() ? 'that wins' : 'looked at');
  for (const one of all('.wk-cell, .wk-bar')) one.classList.toggle('is-current', Number(one.dataset.cell) === cell);
  for (const one of all('.wk-cell')) one.tabIndex = Number(one.dataset.cell) === cell ? 0 : -1;
  image.alt = `The patch: ${node.dataset.where}`;
}

function drawStage() {
  const busy = find('.wk-stage');
  for (const layer of all('.wk-layer')) layer.hidden = Number(layer.dataset.stage) !== stage;
  for (const button of all('[data-grid-of]')) {
    const number = Number(button.dataset.gridOf);
    button.setAttribute('aria-pressed', String(number === stage));
    button.disabled = number > level();
  }
  for (const line of all('[data-stage-line]')) line.classList.toggle('is-out', Number(line.dataset.stageLine) > level());
  for (const group of all('.wk-group')) group.classList.toggle('is-out', Number(group.dataset.stage) > level());
  busy.classList.toggle('is-cut', step === 2);
  busy.classList.toggle('is-hidden', Boolean(hides()));
  const before = stage > 1 ? json('ends')[stage - 2] : 0;
  if (current === null || current < before || current >= json('ends')[stage - 1]) look(stageOf(winner()) === stage && step > 2 && !hides() ? winner() : before);
  else look(current);
}

function drawAnswer() {
  const best = winner();
  const shown = step === 4;
  root().classList.toggle('is-guessing', hides());
  root().classList.toggle('is-guessed', Boolean(guess?.done));
  for (const one of all('.wk-cell, .wk-bar')) {
    const cell = Number(one.dataset.cell);
    one.classList.toggle('is-winner', step > 2 && cell === best);
    one.classList.toggle('is-tried', Boolean(guess?.tried.includes(cell)));
  }
  for (const one of all('.wk-cell')) {
    const { where, score } = one.dataset;
    const known = step > 2 || guess?.tried.includes(Number(one.dataset.cell));
    one.setAttribute('aria-label', known ? `${where}: similarity ${score}` : where);
  }
  fill('patches', patches(used()));
  if (shown) {  // not in the page before it may be known
    fill('max', cellAt(best).dataset.score);
    fill('where', cellAt(best).dataset.where);
  }
  const box = find('.wk-winbox');
  box.hidden = !shown;
  lay(box, best);
  find('.wk-stage').classList.toggle('has-true', shown && find('[data-do="true"]').checked);
  find('.wk-true').hidden = !shown || !find('.wk-stage .pf-true');
  find('.wk-bars').classList.toggle('is-off', step === 2);
  find('.wk-view').classList.toggle('is-off', step === 2 && !guess?.tried.length);
  find('[data-do="reveal"]').hidden = !hides();
  const button = find('[data-do="guess"]');
  button.hidden = hides() || part() === 'exercise' || step === 3;
  button.textContent = guess ? 'Guess again' : 'Let the class guess';
  outcome();
}

// What is said of the last guess. Each wrong one is told a little more: its similarity, then the grid, then the direction.
function outcome() {
  const node = find('.wk-outcome');
  node.classList.toggle('is-right', guess?.done === 'right');
  if (!guess || (!guess.tried.length && guess.done !== 'right')) return fill('outcome', '');
  const wrong = guess.tried.length;
  if (guess.done === 'right') return fill('outcome', `✓ Right${wrong ? `, after ${wrong} wrong guess${wrong === 1 ? '' : 'es'}` : ' at once'}.`);
  if (guess.done) return fill('outcome', '');
  const cell = guess.tried[wrong - 1];
  const words = [`✕ Not this one: its similarity is ${cellAt(cell).dataset.score}; the best patch’s is higher.`];
  const best = stageOf(winner());
  if (wrong > 1) words.push(stageOf(cell) === best ? 'The size of the patch is right.' : `The best one is a patch of the ${find(`[data-grid-of="${best}"]`).textContent}.`);
  if (wrong > 2) words.push(direction(cell));
  return fill('outcome', words.join(' '));
}

function direction(cell) {
  const [from, to] = [cellAt(cell), cellAt(winner())].map((one) => one.dataset.box.split(',').map(Number));
  const across = (to[0] + to[2] - from[0] - from[2]) / 2;
  const down = (to[1] + to[3] - from[1] - from[3]) / 2;
  const ways = [Math.abs(down) > 1 && (down > 0 ? 'down' : 'up'), Math.abs(across) > 1 && (across > 0 ? 'right' : 'left')].filter(Boolean);
  return ways.length ? `Its middle lies further ${ways.join(' and to the ')}.` : 'It has the same middle.';
}

function drawTasks() {
  for (const chip of all('.wk-task')) {
    const how = solved.get(Number(chip.dataset.task));
    chip.classList.toggle('is-right', how === 'right');
    chip.querySelector('i').textContent = { right: '✓', shown: '–' }[how] ?? '';
  }
  const right = [...solved.values()].filter((how) => how === 'right').length;
  fill('solved', `${right} of ${all('.wk-task').length} guessed`);
}

function drawStep() {
  for (const tab of all('.wk-tab')) {
    const chosen = Number(tab.dataset.step) === step;
    tab.setAttribute('aria-selected', String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  for (const panel of all('.wk-panel')) {
    panel.hidden = !panel.dataset.steps.split(' ').includes(String(step));
    if (!panel.hidden) panel.setAttribute('aria-labelledby', `wk-tab-${step}`);
  }
  for (const words of all('[data-say]')) words.hidden = Number(words.dataset.say) !== step;
  for (const tab of all('.wk-tab')) tab.disabled = hides() && Number(tab.dataset.step) > 2;  // they would give it away
  if (find('[data-go]')) {
    find('[data-go="-1"]').disabled = step === 1;
    find('[data-go="1"]').disabled = step >= all('.wk-tab').length || (hides() && step === 2);
  }
  drawTasks();
  root().dataset.step = step;
  drawStage();
  drawAnswer();
  compare();
}

function compare() {
  if (part() !== 'steps') return;
  const button = find('[data-do="side"]');
  if (button) button.setAttribute('aria-pressed', String(side));
  const other = find('.wk-global');
  if (other) other.hidden = !side;
  find('.wk-cols').classList.toggle('is-two', Boolean(other) && side);
  if (!sum) return;
  for (const tab of all('[data-sum]')) tab.setAttribute('aria-pressed', String(tab.dataset.sum === sum));
  for (const part of all('[data-sum-of]')) part.hidden = part.dataset.sumOf !== sum;
}

function goTo(number, focus = false) {
  const last = part() === 'exercise' ? 4 : all('.wk-tab').length;
  step = Math.min(Math.max(part() === 'exercise' ? 2 : 1, number), hides() ? 2 : last);
  if (LAB.includes(step)) {
    stage = step === 2 ? level() : stageOf(winner());
    current = step === 2 ? null : winner();
  }
  drawStep();
  const tab = find(`.wk-tab[data-step="${step}"]`);
  if (!tab) return;
  if (focus) tab.focus();
  const list = tab.parentElement;  // on a phone the row of steps is wider than the screen
  list.scrollLeft = tab.offsetLeft - list.offsetLeft - (list.clientWidth - tab.clientWidth) / 2;
}

function guessed(cell) {
  if (cell !== winner()) {
    if (!guess.tried.includes(cell)) guess.tried.push(cell);
    else guess.tried.push(...guess.tried.splice(guess.tried.indexOf(cell), 1));  // the last one is spoken of
    return drawStep();
  }
  return end('right');
}

function end(how) {
  guess.done = how;
  if (part() === 'exercise' && solved.get(task()) !== 'right') solved.set(task(), how);
  goTo(4);
  cellAt(winner()).focus({ preventScroll: true });
}

function begin() {
  guess = { tried: [], done: null };
  goTo(2);
}

element.addEventListener('pointerover', (event) => {
  const over = event.target.closest('.wk-cell, .wk-bar');
  if (!over || (hides() && !over.matches('.is-tried'))) return;
  const cell = Number(over.dataset.cell);
  if (over.matches('.wk-bar') && stageOf(cell) !== stage && stageOf(cell) <= level()) {
    [stage, current] = [stageOf(cell), cell];
    drawStage();
  } else if (stageOf(cell) <= level()) look(cell);
});

element.addEventListener('focusin', (event) => {
  const cell = event.target.closest('.wk-cell');
  if (cell) look(Number(cell.dataset.cell));
});

element.addEventListener('click', (event) => {
  const target = event.target;
  const on = (selector) => target.closest(selector);
  const choice = on('[data-part], .wk-stepper [data-task]');
  if (choice && choice !== root()) {
    const { part: chosen, task: number } = choice.dataset;
    returning = chosen ? `[data-part="${chosen}"].pf-btn` : `.wk-task[data-task="${number}"]`;
    guess = null;
    step = chosen === 'steps' ? 1 : step;
    return chosen ? ask('part', chosen) : ask('task', Number(number));
  }
  const tab = on('.wk-tab');
  if (tab) return goTo(Number(tab.dataset.step));
  const go = on('[data-go]');
  if (go) return goTo(step + Number(go.dataset.go));
  const grid = on('[data-grid-of]');
  if (grid) {
    [stage, current] = [Number(grid.dataset.gridOf), null];
    return drawStep();
  }
  const cell = on('.wk-cell');
  if (cell) {
    if (hides()) return guessed(Number(cell.dataset.cell));
    return look(Number(cell.dataset.cell));
  }
  const pick = on('[data-pick]');
  if (pick) {
    returning = pick.dataset.way ? `[data-way="${pick.dataset.way}"]:not([disabled])` : `.wk-thumb[data-pick="${pick.dataset.pick}"]`;
    return ask('image', Number(pick.dataset.pick));
  }
  const pair = on('[data-set]');
  if (pair) {
    returning = pair.dataset.asked ? `[data-asked="${pair.dataset.asked}"]` : '.wk-tab[data-step="7"]';
    step = 7;
    return ask('pair', Number(pair.dataset.set), pair.dataset.asked ? { asked: Number(pair.dataset.asked) } : {});
  }
  const own = on('[data-sum]');
  if (own) {
    sum = own.dataset.sum;
    return compare();
  }
  const search = on('[data-search]');
  if (search) {
    document.querySelector('#pf-tabs [role="tab"]').click();  // the search is the first tab
    document.querySelector(`#pf-examples [data-example="${search.dataset.search}"]`)?.click();
    return window.scrollTo({ top: 0 });
  }
  const what = on('[data-do]')?.dataset.do;
  if (what === 'side') {
    side = !side;
    compare();
  }
  if (what === 'guess') {
    begin();
    cellAt(current).focus({ preventScroll: true });
  }
  if (what === 'reveal') end('shown');
});

element.addEventListener('change', (event) => {
  const { target } = event;
  if (target.name === 'wk-level') {
    root().dataset.level = target.value;  // the winner is known here; the ranking comes from the server
    returning = `[name="wk-level"][value="${target.value}"]`;
    if (LAB.includes(step)) {
      if (step > 2 && !guess) [stage, current] = [stageOf(winner()), winner()];
      else [step, stage, current] = [guess ? 2 : step, level(), null];
    }
    if (guess) guess = { tried: [], done: null };  // another winner
    drawStep();
    return ask('level', Number(target.value));
  }
  if (target.dataset.do === 'engine' || target.dataset.do === 'way') {
    returning = `[data-do="${target.dataset.do}"]`;
    return ask(target.dataset.do, target.value);
  }
  if (target.dataset.do === 'true') drawAnswer();
});

// In a grid the arrow keys go to the neighbour; among patches that lie anywhere, to the next and the one before.
function neighbour(key, cell) {
  const layer = cellAt(cell).parentElement;
  const [grid, before] = [Number(layer.dataset.grid), stage > 1 ? json('ends')[stage - 2] : 0];
  const [at, count] = [cell - before, layer.children.length];
  const across = grid || 1;
  const steps = grid ? { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across } : { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
  if (key === 'Home') return before;
  if (key === 'End') return before + count - 1;
  if (!(key in steps)) return null;
  const to = at + steps[key];
  const leaves = grid && ((key === 'ArrowLeft' && at % across === 0) || (key === 'ArrowRight' && to % across === 0));
  return to < 0 || to >= count || leaves ? cell : before + to;
}

element.addEventListener('keydown', (event) => {
  const cell = event.target.closest('.wk-cell');
  if (cell) {
    const to = neighbour(event.key, Number(cell.dataset.cell));
    if (to === null) return;
    event.preventDefault();
    look(to);
    cellAt(to).focus();
  }
  if (event.target.closest('.wk-tab')) {
    const to = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 1, End: all('.wk-tab').length }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();  // the page's own tabs go round; the steps end
    goTo(to, true);
  }
});

watch('value', () => {
  const now = root();
  if (!now) return;
  for (const choice of all('input[type=radio]')) choice.checked = choice.defaultChecked;
  for (const list of all('select')) list.value = list.querySelector('option[selected]')?.value ?? list.value;
  if (part() !== 'plan') arrange(now);
  if (returning) find(returning)?.focus({ preventScroll: true });
  returning = null;
});

function arrange(now) {
  const about = `${now.dataset.image} ${now.dataset.task}`;
  if (about !== pictured || (part() === 'exercise' && !guess)) {
    pictured = about;
    if (part() === 'exercise' || guess) guess = { tried: [], done: null };  // the class guesses on, on another picture
    [stage, current] = [null, null];
  }
  if (part() === 'steps') {
    if (!find('[data-sum-of="own"] table')) sum = 'worked';
    else if (returning === null) sum = 'own';
    if (!find('.wk-tab[data-step="7"]') && step === 7) step = 1;
  }
  const keep = LAB.includes(step) && stage !== null && stage <= level() ? [stage, current] : null;
  goTo(step);
  if (keep && current !== null && !hides()) {
    [stage, current] = keep;
    drawStep();
  }
}
