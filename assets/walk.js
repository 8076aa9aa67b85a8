// The walk: which step, which patches and which one of them is looked at, and the class's guess. All numbers are in the
// page already; the server is asked for another index, level, box or result.
const root = () => element.querySelector('.pf-walk');
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const json = (name) => JSON.parse(root().dataset[name]);
const LAB = [2, 3, 4];  // the steps on the gallery picture
let step = 1;
let stage = null;  // the set of patches that is drawn
let current = null;  // the patch that is looked at
let guess = null;  // nothing; or { cell } while the class guesses, which is null before it has
let side = false;  // whole pictures beside the patches
let sum = null;  // whose arithmetic is shown
let pictured = null;  // the picture that all this is about
let returning = null;  // selector of what has the focus when an answer comes

const level = () => Number(root().dataset.level);
const used = () => json('ends')[level() - 1];
const winner = () => json('winners')[level() - 1];
const cellAt = (cell) => find(`.wk-cell[data-cell="${cell}"]`);
const stageOf = (cell) => json('ends').findIndex((end) => cell < end) + 1;
const hides = () => step === 4 && guess && guess.cell === null;
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
  const shown = !hides() && step > 2;
  fill('score', shown ? node.dataset.score : '?');
  fill('cell-where', node.dataset.where);
  const round = (value) => String(Math.round(value));
  fill('cell-box', `x ${round(x1)} to ${round(x2)}, y ${round(y1)} to ${round(y2)} pixels (${round(x2 - x1)} × ${round(y2 - y1)})`);
  fill('cell-place', shown ? `number ${placeOf(cell)} of ${patches(used())}` : '');
  fill('under', cell === winner() && shown ? 'that wins' : 'looked at');
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
  const shown = step === 4 && !hides();
  root().classList.toggle('is-guessing', Boolean(hides()));
  root().classList.toggle('is-guessed', Boolean(guess) && guess.cell !== null);
  for (const one of all('.wk-cell, .wk-bar')) one.classList.toggle('is-winner', step > 2 && !hides() && Number(one.dataset.cell) === best);
  for (const one of all('.wk-cell')) {
    const { where, score } = one.dataset;
    one.setAttribute('aria-label', step === 2 || hides() ? where : `${where}: similarity ${score}`);
  }
  fill('patches', patches(used()));
  fill('max', cellAt(best).dataset.score);
  fill('where', cellAt(best).dataset.where);
  const box = find('.wk-winbox');
  box.hidden = !shown;
  lay(box, best);
  const mine = find('.wk-guessbox');
  mine.hidden = !(shown && guess && guess.cell !== best);
  if (!mine.hidden) lay(mine, guess.cell);
  for (const node of all('.wk-answer')) node.hidden = !shown;
  find('.wk-question').hidden = !hides();
  find('.wk-stage').classList.toggle('has-true', shown && find('[data-do="true"]').checked);
  find('.wk-true').hidden = !shown || !find('.wk-stage .pf-true');
  find('.wk-bars').classList.toggle('is-off', step === 2 || Boolean(hides()));
  find('.wk-view').classList.toggle('is-off', step === 2 || Boolean(hides()));
  find('[data-do="reveal"]').hidden = !hides();
  const button = find('[data-do="guess"]');
  button.hidden = Boolean(hides());
  button.textContent = guess ? 'Guess again' : 'Hide the answer and let the class guess';
  find('.wk-left + .wk-side .wk-guess').hidden = step !== 4;
  outcome();
}

function outcome() {
  if (!guess || guess.cell === null) return fill('outcome', '');
  const scores = json('scores');
  const [mine, best] = [cellAt(guess.cell), cellAt(winner())];
  const node = find('.wk-outcome');
  node.classList.toggle('is-right', guess.cell === winner());
  if (guess.cell === winner()) return fill('outcome', `✓ Right: that patch wins with ${best.dataset.score}.`);
  const by = (scores[winner()] - scores[guess.cell]).toFixed(3);
  fill('outcome', `✕ Not this one. The patch guessed, ${mine.dataset.where}, has ${mine.dataset.score} and is number ${placeOf(guess.cell)} of ${used()}. The winner has ${by} more.`);
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
  find('[data-go="-1"]').disabled = step === 1;
  find('[data-go="1"]').disabled = step >= all('.wk-tab').length;
  root().dataset.step = step;
  drawStage();
  drawAnswer();
  compare();
}

function compare() {
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
  step = Math.min(Math.max(1, number), all('.wk-tab').length);
  if (LAB.includes(step)) {
    stage = step === 2 || hides() ? level() : stageOf(winner());
    current = step === 2 || hides() ? null : winner();
  }
  drawStep();
  const tab = find(`.wk-tab[data-step="${step}"]`);
  if (focus) tab.focus();
  const list = tab.parentElement;  // on a phone the row of steps is wider than the screen
  list.scrollLeft = tab.offsetLeft - list.offsetLeft - (list.clientWidth - tab.clientWidth) / 2;
}

function guessed(cell) {
  guess.cell = cell;
  stage = stageOf(winner());
  current = winner();
  drawStep();
  cellAt(winner()).focus({ preventScroll: true });
}

element.addEventListener('pointerover', (event) => {
  const over = event.target.closest('.wk-cell, .wk-bar');
  if (!over || hides()) return;
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
    guess = { cell: null };
    goTo(4);
    cellAt(current).focus({ preventScroll: true });
  }
  if (what === 'reveal') {
    guess = null;
    goTo(4);
    find('[data-do="guess"]').focus({ preventScroll: true });
  }
});

element.addEventListener('change', (event) => {
  const { target } = event;
  if (target.name === 'wk-level') {
    root().dataset.level = target.value;  // the winner is known here; the ranking comes from the server
    returning = `[name="wk-level"][value="${target.value}"]`;
    if (LAB.includes(step)) {
      if (!hides()) [stage, current] = [stageOf(winner()), winner()];
      else [stage, current] = [level(), null];
    }
    if (guess?.cell >= used()) guess = null;
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
  const image = now.dataset.image;
  if (image !== pictured) {
    pictured = image;
    if (guess?.cell !== undefined) guess = guess && { cell: null };  // the class guesses on, on another picture
    [stage, current] = [null, null];
  }
  if (!find('[data-sum-of="own"] table')) sum = 'worked';
  else if (returning === null) sum = 'own';
  if (!find('.wk-tab[data-step="7"]') && step === 7) step = 1;
  const keep = LAB.includes(step) && stage !== null && stage <= level() ? [stage, current] : null;
  goTo(step);
  if (keep && current !== null && !hides()) {
    [stage, current] = keep;
    drawStep();
  }
  if (returning) find(returning)?.focus({ preventScroll: true });
  returning = null;
});
