// The visitor's own pictures: sent, watched while they are indexed, boxed and scored. The server's addresses are those of
// web/own_pictures.py; the token that opens them stays in this browser.
const STORE = 'patchify-own';
const AT_ONCE = 3;  // uploads
const UNDO_S = 5;  // seconds in which a deletion can be undone
const SHOWN = 120;  // pictures, until more are asked for
const tab = Math.random().toString(36).slice(2);
const find = (selector) => element.querySelector(selector);
const is = (name) => find(`[data-is="${name}"]`);
const show = (node, visible) => { node.hidden = !visible; };
const make = (tag, { data = {}, ...properties } = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  node.append(...children);
  return node;
};

let token = null;
let status = null;
let pictures = [];
let sending = null;  // { done, total, stopped } while files are on their way
let polling = null;
let looking = null;  // name of the picture that is looked at
let drawn = null;
let shown = SHOWN;
let told = '';  // of the index that the search knows
let deleting = null;  // timer of a deletion that can still be undone

function stored(value) {
  try {
    if (value === undefined) return localStorage.getItem(STORE);
    if (value) localStorage.setItem(STORE, value);
    else localStorage.removeItem(STORE);
  } catch (error) {
    // Storage is switched off: the pictures last as long as this page.
  }
  return null;
}

function notice(text) {
  const node = find('.pf-own-notice');
  node.textContent = text || '';
  show(node, Boolean(text));
}

class Gone extends Error {}

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(`own${path}`, options);
  } catch (error) {
    throw new Error('The server does not answer: check your connection and try again.');
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 404) throw new Gone(body.error || 'Your pictures are no longer on the server: add them again.');
  if (!answer.ok) throw new Error(body.error || 'The server could not do that: try again.');
  return body;
}

const mine = (path, options) => call(`/${token}${path}`, options);

function forget(text) {
  token = null;
  stored('');
  status = null;
  pictures = [];
  looking = null;
  told = '';
  clearTimeout(polling);
  draw();
  notice(text);
}

async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Gone) forget(error.message);
    else notice(error.message);
    return undefined;
  }
}

// Watching -------------------------------------------------------------------------------------------------------

function isBusy() {
  return sending || status?.state === 'indexing' || status?.score?.state === 'scoring';
}

function watchOn() {
  clearTimeout(polling);
  if (token) polling = setTimeout(look, isBusy() ? 1000 : 20_000);
}

async function look() {
  await guarded(async () => take(await mine(`?tab=${tab}`)));
  watchOn();
}

async function take(now) {
  const before = status;
  status = now;
  if (!before || before.pictures !== now.pictures || pictures.length !== now.pictures) pictures = (await mine('/pictures')).sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
  const index = now.indexed ? `${token}:${now.indexed}` : '';
  if (index && index !== told) {
    told = index;
    window.patchifyOwn?.('known', { token });
  }
  draw();
}

// Sending --------------------------------------------------------------------------------------------------------

async function send(files) {
  const wanted = files.filter(({ file }) => !file.name.startsWith('.'));
  if (!wanted.length) return notice('You chose no files: choose pictures, a folder or a zip.');
  notice('');
  await guarded(async () => {
    if (!token) {
      token = (await call('', { method: 'POST' })).token;
      stored(token);
    }
    if (sending) {
      sending.total += wanted.length;
      sending.queue.push(...wanted);
      return;
    }
    sending = { done: 0, total: wanted.length, queue: wanted };
    draw();
    watchOn();  // a slow upload must not look like a visitor who has left
    await Promise.all(Array.from({ length: AT_ONCE }, sendNext));
    sending = null;
    if (token) await take(await mine('/index', { method: 'POST' }));
  });
  sending = null;
  watchOn();
}

async function sendNext() {
  while (sending?.queue.length) {
    const { file, name } = sending.queue.shift();
    try {
      const path = `/files?name=${encodeURIComponent(name)}`;
      const answer = await mine(path, { method: 'POST', body: file });
      if (answer.known) notice(`Index restored${answer.boxes ? `, with ${answer.boxes} boxes` : ''}. Now add its ${answer.known} pictures.`);
    } catch (error) {
      if (error instanceof Gone) {
        sending.queue.length = 0;
        throw error;
      }
      notice(`${file.name}: ${error.message}`);
    }
    if (!sending) return;
    sending.done += 1;
    draw();
  }
}

// Everything in a dropped folder, and below it. The browser lists a folder in parts.
async function filesIn(entry, path = '') {
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    return file ? [{ file, name: `${path}${file.name}` }] : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const part = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!part.length) return found;
    for (const child of part) found.push(...await filesIn(child, `${path}${entry.name}/`));
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return send([...transfer.files].map((file) => ({ file, name: file.name })));
  const found = [];
  for (const entry of entries) found.push(...await filesIn(entry));
  return send(found);
}

const drop = find('.pf-drop');
for (const kind of ['dragover', 'dragleave', 'drop']) {
  drop?.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    event.stopPropagation();  // else the search would take it for a query
    drop.classList.toggle('is-over', kind === 'dragover');
    if (kind === 'drop') dropped(event.dataTransfer);
  });
}

// Drawing --------------------------------------------------------------------------------------------------------

function seconds(value) {
  if (value === null || value === undefined) return '';
  if (value < 90) return ` · about ${Math.max(1, Math.round(value))} s left`;
  return ` · about ${Math.round(value / 60)} min left`;
}

function said() {
  if (sending) return `Sending ${Math.min(sending.done + 1, sending.total)} of ${sending.total} …`;
  if (!status || !status.pictures) return status?.known ? `Index restored. Now add its ${status.known} pictures.` : 'No pictures yet.';
  const { done, total, indexed, state } = status;
  const can = indexed ? `${indexed} searchable` : '';
  if (state === 'indexing' && status.waiting && !done) return 'Waiting for the pictures of other visitors …';
  if (state === 'indexing') return `${done} of ${total} indexed${seconds(status.seconds_left)}${can ? ` · ${can}` : ''}`;
  if (state === 'cancelled') return `Cancelled. ${indexed} of ${total} pictures are searchable.`;
  if (state === 'failed') return status.error;
  if (total === 1 && indexed) return 'Your picture is searchable.';
  return indexed === total ? `All ${total} pictures are searchable.` : `${indexed} of ${total} pictures are searchable.`;
}

function draw() {
  if (!find('.pf-own')) return;
  const state = status?.state;
  is('said').textContent = said();
  const bar = find('progress');
  bar.max = sending ? sending.total : Math.max(1, status?.total || 1);
  bar.value = sending ? sending.done : status?.done || 0;
  bar.classList.toggle('is-idle', !isBusy());
  show(find('[data-do="cancel"]'), !sending && state === 'indexing');
  show(find('[data-do="go-on"]'), !sending && status && status.indexed < status.total && state !== 'indexing');
  show(find('.pf-own-actions'), Boolean(status?.pictures));
  for (const name of ['index', 'boxes']) {
    const link = is(name);
    const ready = name === 'index' ? status?.indexed : status?.indexed && status.marks.length;
    link.classList.toggle('is-off', !ready);
    link.setAttribute('aria-disabled', String(!ready));
    if (ready) link.href = `own/${token}/${name === 'index' ? 'index.zip' : 'annotations.json'}`;
    else link.removeAttribute('href');
  }
  find('[data-do="search"]').disabled = !status?.indexed;
  find('[data-do="search-this"]').disabled = !status?.indexed;
  drawSkipped();
  drawGrid();
  drawLook();
  drawScore();
}

function drawSkipped() {
  const skipped = status?.skipped;
  const node = find('.pf-own-skipped');
  show(node, Boolean(skipped?.count));
  if (!skipped?.count) return;
  node.querySelector('summary').textContent = `${skipped.count} file${skipped.count === 1 ? ' was' : 's were'} skipped`;
  const list = node.querySelector('ul');
  const drawn = JSON.stringify(skipped.files); // a row that counts files changes while their number stays
  if (list.dataset.drawn === drawn) return;
  list.dataset.drawn = drawn;
  list.replaceChildren(...skipped.files.map(({ file, reason }) => make('li', { textContent: `${file}: ${reason}` })));
}

const address = (name, side) => `own/${token}/picture/${name.split('/').map(encodeURIComponent).join('/')}?side=${side}`;

function drawGrid() {
  show(find('.pf-own-empty'), !pictures.length);
  const grid = find('.pf-own-grid');
  const marked = new Set((status?.marks || []).map((mark) => mark.picture));
  const wanted = pictures.slice(0, shown);
  const have = [...grid.children].map((node) => node.dataset.name);
  if (have.length > wanted.length || wanted.some((picture, at) => at < have.length && have[at] !== picture.name)) grid.replaceChildren();
  for (const { name } of wanted.slice(grid.childElementCount)) {
    const image = make('img', { loading: 'lazy', alt: name, src: address(name, 160) });
    const button = make('button', { type: 'button', className: 'pf-own-thumb', title: name, data: { name } }, image);
    grid.append(make('li', { data: { name } }, button));
  }
  [...grid.children].forEach((item, at) => {
    const button = item.firstChild;
    button.classList.toggle('is-marked', marked.has(wanted[at].id));
    button.setAttribute('aria-pressed', String(wanted[at].name === looking));
  });
  const more = find('[data-do="more"]');
  show(more, pictures.length > shown);
  more.textContent = `Show more (${pictures.length - wanted.length} left)`;
}

const tool = window.patchifyBox(element, { changed: (box) => { drawn = box; } });

function openPicture(name) {
  const picture = pictures.find((one) => one.name === name);
  if (!picture) return;
  looking = name;
  const mark = (status?.marks || []).find((one) => one.picture === picture.id);
  drawn = mark ? mark.box : null;
  is('object').value = mark ? mark.object : is('object').value;
  const image = find('.pf-own-stage img');
  image.src = address(name, 1024);
  image.alt = name;
  const ratio = picture.width / picture.height;
  find('.pf-own-stage').style.setProperty('--ratio', ratio.toFixed(5));
  tool.open(picture.width, picture.height, drawn);
  draw();
  find('.pf-own-look').scrollIntoView({ block: 'nearest' });
}

function drawLook() {
  const picture = pictures.find((one) => one.name === looking);
  show(find('.pf-own-look'), Boolean(picture));
  if (!picture) return;
  is('name').textContent = picture.name;
  const marks = status.marks.filter((mark) => mark.picture === picture.id);
  find('.pf-own-marks').replaceChildren(...marks.map(({ object }) => {
    const button = make('button', { type: 'button', className: 'pf-btn ghost', data: { unmark: object } }, 'Remove');
    button.setAttribute('aria-label', `Remove the box of ${object}`);
    return make('li', {}, make('b', {}, object), button);
  }));
  find('.pf-own-boxes').replaceChildren(...marks.map(({ box: [x1, y1, x2, y2] }) => {
    const node = make('span', { className: 'pf-own-saved' });
    Object.assign(node.style, {
      left: `${(100 * x1) / picture.width}%`, top: `${(100 * y1) / picture.height}%`,
      width: `${(100 * (x2 - x1)) / picture.width}%`, height: `${(100 * (y2 - y1)) / picture.height}%`,
    });
    return node;
  }));
  const objects = [...new Set(status.marks.map((mark) => mark.object))];
  find('#pf-own-objects').replaceChildren(...objects.map((object) => new Option(object, object)));
}

const WAYS = {
  global: 'Whole pictures', patches: 'Patches, winning patch', map: 'Patches, refined box', soft: 'Patches, soft box',
};

function drawScore() {
  const marks = status?.marks || [];
  show(find('.pf-own-score'), marks.length > 0);
  if (!marks.length) return;
  const counts = new Map();
  for (const mark of marks) counts.set(mark.object, (counts.get(mark.object) || 0) + 1);
  const objects = [...counts].map(([name, count]) => `${name} (${count})`).join(', ');
  const enough = [...counts.values()].some((count) => count > 1);
  const score = status.score;
  const button = find('[data-do="score"]');
  button.disabled = !enough || !status.indexed || score?.state === 'scoring';
  let text = `Boxes: ${objects}.`;
  if (!enough) text += ' Draw a box around one of them on a second picture to get a score.';
  if (score?.state === 'scoring') text = score.total ? `Scoring: ${score.done} of ${score.total} …` : 'Scoring …';
  if (score?.state === 'failed') text = score.error;
  is('scored').textContent = text;
  if (score?.state !== 'done') return is('scores').replaceChildren();
  const head = ['', 'mAP', 'LocScore', 'top-1 correct'].map((name) => make('th', { scope: 'col' }, name));
  const rows = score.rows.map((row) => make(
    'tr', {}, make('th', { scope: 'row' }, WAYS[row.way] || row.way),
    ...[row.map, row.locscore].map((value) => make('td', {}, value === null ? '—' : value.toFixed(3))),
    make('td', {}, `${Math.round(row['recall@1'] * row.queries)} of ${row.queries}`),
  ));
  const table = make('table', { className: 'pf-tbl' }, make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...rows));
  is('scores').replaceChildren(table);
}

// Doing ----------------------------------------------------------------------------------------------------------

const post = (path, body) => mine(path, { method: 'POST', body: body === undefined ? undefined : JSON.stringify(body) });

function toSearch(name, box = null) {
  document.querySelector('#pf-tabs [role="tab"]')?.click();
  window.patchifyOwn?.('search', { token, name, box });
  window.scrollTo({ top: 0 });
}

// Deleted after some seconds, in which it can be undone; at once if the page is closed meanwhile.
function countDown(left) {
  const button = find('[data-do="delete"]');
  button.textContent = `Undo (deleting in ${left} s)`;
  find('.pf-own').classList.add('is-deleting');
  deleting = setTimeout(left > 1 ? () => countDown(left - 1) : () => guarded(async () => {
    await post('/delete').finally(keep);
    forget('');
    is('said').textContent = 'Everything was deleted.';
  }), 1000);
}

function keep() {
  clearTimeout(deleting);
  deleting = null;
  find('[data-do="delete"]').textContent = 'Delete everything';
  find('.pf-own').classList.remove('is-deleting');
}

const deeds = {
  files: () => find('[data-for="files"]').click(),
  folder: () => find('[data-for="folder"]').click(),
  zip: () => find('[data-for="zip"]').click(),
  cancel: () => guarded(async () => take(await post('/cancel'))),
  'go-on': () => guarded(async () => { await take(await post('/index')); watchOn(); }),
  search: () => toSearch(null),
  'search-this': () => toSearch(looking, drawn),
  more: () => { shown += SHOWN * 4; draw(); },
  score: () => guarded(async () => { notice(''); await take(await post('/score')); watchOn(); }),
  save: () => guarded(async () => {
    if (!drawn) return tool.suggest();
    await take(await post('/marks', { picture: looking, object: is('object').value, box: drawn }));
    notice('');
  }),
  delete: () => (deleting ? keep() : countDown(UNDO_S)),
};

element.addEventListener('click', (event) => {
  const target = event.target.closest('[data-do], [data-unmark], .pf-own-thumb, [aria-disabled="true"]');
  if (!target) return;
  if (target.dataset.do) deeds[target.dataset.do]?.();
  else if (target.dataset.unmark !== undefined) {
    guarded(async () => take(await post('/marks', { picture: looking, object: target.dataset.unmark, box: null })));
  } else if (target.classList.contains('pf-own-thumb')) openPicture(target.dataset.name);
  else event.preventDefault();
});

element.addEventListener('change', (event) => {
  if (event.target.type !== 'file') return;
  send([...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
  event.target.value = '';
});

// A page that is closed says so; one that is loaded anew is back before the server has deleted anything.
addEventListener('pagehide', () => { if (token) navigator.sendBeacon(deleting ? `own/${token}/delete` : `own/${token}/leave?tab=${tab}`); });
addEventListener('pageshow', (event) => { if (event.persisted && token) look(); });

if (find('.pf-own') && stored()) {
  token = stored();
  mine(`?tab=${tab}`).then(take).catch(() => forget('')).finally(watchOn);
}
