// "Try it on your photos": one photo of an object, a box from a tap, a few photos that may contain it, two rankings.
// The photos are the visitor's own pictures (web/own_pictures.py, as in own.js); nothing about them enters the address.
// What the page needs to go on after a reload, as when the camera took the memory, is in this browser alone.
import { crop, rankings } from './try-rank.js';

const find = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const { root } = document.documentElement.dataset;
const SIDE = 1600;  // longer side of what is sent, in pixels
const TOKEN = 'patchify-own';  // as own.js has it: the full tool goes on with the same pictures
const STATE = 'patchify-try';
const SAMPLE = JSON.parse(find('sample').textContent);
const tab = Math.random().toString(36).slice(2);
const local = new Map();  // name of a picture -> address of what was sent, so that nothing is fetched to be shown

let token = null;
let status = null;
let pictures = [];
let found = null;  // the rankings
let sending = null;  // { done, total } while photos are on their way
let polling = null;
let proposal = 0;  // number of the latest tap
let asking = '';  // box and indexed pictures that the rankings are of
let state = { step: 'photo', query: null, box: null, contains: [], sample: false };

// The browser's memory -------------------------------------------------------------------------------------------

function memory(store, key, value) {
  try {
    if (value === undefined) return store().getItem(key);
    if (value) store().setItem(key, value);
    else store().removeItem(key);
  } catch (error) { /* storage is switched off: all lasts as long as this page */ }
  return null;
}
const save = (change) => { state = { ...state, ...change }; memory(() => sessionStorage, STATE, JSON.stringify(state)); draw(); };

// The server -----------------------------------------------------------------------------------------------------

class Gone extends Error {}
const wait = (time) => new Promise((done) => { setTimeout(done, time); });

function notice(text) {
  find('notice').textContent = text;
  find('notice').hidden = !text;
}

async function call(path, options, tries = 60) {
  let answer;
  try {
    answer = await fetch(`${root}own${path}`, options);
  } catch (error) {
    throw new Error('The server does not answer: check your connection and try again.');
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 503 && tries) {  // it has just been started
    notice(body.error || '');
    await wait(1000);
    return call(path, options, tries - 1).finally(() => notice(''));
  }
  if (answer.status === 404) throw new Gone('Your photos are no longer on the server: take them again.');
  if (!answer.ok) throw new Error(body.error || 'The server could not do that: try again.');
  return body;
}
const mine = (path, options) => call(`/${token}${path}`, options);
const post = (path, body) => mine(path, { method: 'POST', body: body === undefined ? undefined : JSON.stringify(body) });

async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Gone) forget();
    notice(error.message);
    return undefined;
  }
}

function forget() {
  clearTimeout(polling);
  local.forEach((address) => URL.revokeObjectURL(address));
  local.clear();
  memory(() => localStorage, TOKEN, '');
  [token, status, found, sending, asking, pictures] = [null, null, null, null, '', []];
  ranks.close();
  ranks.draw(null);
  save({ step: 'photo', query: null, box: null, contains: [], sample: false });
}

const sizeOf = (name) => pictures.find((one) => one.name === name);
const addressOf = (name) => local.get(name) ?? `${root}own/${token}/picture/${name.split('/').map(encodeURIComponent).join('/')}`;

// Sending --------------------------------------------------------------------------------------------------------

// The photo upright and no larger than is looked at; as it is where this browser cannot read it.
async function reduced(file) {
  const address = URL.createObjectURL(file);
  try {
    const image = Object.assign(new Image(), { src: address });
    await image.decode();
    const scale = Math.min(1, SIDE / Math.max(image.naturalWidth, image.naturalHeight));
    const canvas = Object.assign(document.createElement('canvas'), {
      width: Math.max(1, Math.round(image.naturalWidth * scale)), height: Math.max(1, Math.round(image.naturalHeight * scale)),
    });
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => { canvas.toBlob((blob) => done(blob ?? file), 'image/jpeg', 0.9); });
  } catch (error) {
    return file;
  } finally {
    URL.revokeObjectURL(address);
  }
}

// Sends one photo; its name among the visitor's pictures, or null and a notice.
async function send(file) {
  if (!token) {
    token = (await call('', { method: 'POST' })).token;
    memory(() => localStorage, TOKEN, token);
    watch();
  }
  const data = await reduced(file);
  const name = data === file ? file.name : `${file.name.replace(/\.\w+$/, '') || 'photo'}.jpg`;
  const sent = await mine(`/files?name=${encodeURIComponent(name)}`, { method: 'POST', body: data });
  if (!sent.name) notice(`${file.name}: ${sent.refused || 'this is no photo: choose a picture.'}`);
  else if (data !== file && !local.has(sent.name)) local.set(sent.name, URL.createObjectURL(data));
  return sent.name;
}

async function newQuery(file) {
  notice('');
  find('hint').textContent = '';
  document.body.classList.add('is-busy');
  find('sending').textContent = 'Sending your photo …';
  await guarded(async () => {
    const name = await send(file);
    if (!name) return;
    pictures = await mine('/pictures');
    found = null;
    save({ step: 'tap', query: name, box: null, contains: [] });
    await post('/index');  // while the visitor looks at the box
    watch();
    const { width, height } = sizeOf(name);
    await propose([width / 2, height / 2]);
  });
  document.body.classList.remove('is-busy');
  find('sending').textContent = '';
}

async function addPhotos(files, contain = []) {
  notice('');
  if (sending) sending.total += files.length;
  else sending = { done: 0, total: files.length };
  draw();
  for (const [at, file] of files.entries()) {
    const sent = await guarded(async () => {
      const name = await send(file);
      pictures = await mine('/pictures');
      if (name && contain[at]) save({ contains: [...state.contains, name] });
      await post('/index');  // the first can be ranked while the next is on its way
      return true;
    });
    if (!sending) return;
    sending.done += 1;
    draw();
    if (sent) watch();
    else if (!token) return;
  }
  if (sending?.done === sending?.total) sending = null;
  draw();
  watch();
}

// Watching -------------------------------------------------------------------------------------------------------

const isBusy = () => sending || status?.state === 'indexing' || (status?.state === 'done' && status.indexed < status.pictures);

function watch(soon = 0) {
  clearTimeout(polling);
  if (token) polling = setTimeout(look, soon);
}

async function look() {
  await guarded(async () => {
    status = await mine(`?tab=${tab}`);
    if (!sending && status.state === 'done' && status.indexed < status.pictures) await post('/index');  // it ended as one came
    await rank();
    if (status.state === 'failed') notice(status.error);
  });
  draw();
  watch(isBusy() ? 500 : 20_000);
}

async function rank() {
  const wanted = JSON.stringify([state.query, state.box, status?.indexed, status?.pictures]);
  if (state.step !== 'photos' || !status?.indexed || wanted === asking) return;
  asking = wanted;
  const answer = await post('/search', { picture: state.query, box: state.box }).catch((error) => { asking = ''; throw error; });
  if (wanted !== asking) return;
  found = answer;
  ranks.draw(found);
}

// The box --------------------------------------------------------------------------------------------------------

let drew = false;  // whether the pointer that was just lifted has drawn
const stage = find('stage');
const tool = window.patchifyBox(stage.parentElement, {
  label: 'Box around the object',
  changed: (box, by) => { drew ||= by === 'pointer'; proposal += 1; save({ box }); },
});

async function propose(point) {
  const number = (proposal += 1);
  const { width, height } = sizeOf(state.query);
  stage.style.setProperty('--tap-x', `${(100 * point[0]) / width}%`);
  stage.style.setProperty('--tap-y', `${(100 * point[1]) / height}%`);
  stage.classList.add('is-looking');
  find('hint').textContent = 'Looking for the object …';
  await guarded(async () => {
    const { box } = await post('/tap', { picture: state.query, point });
    if (number !== proposal) return;
    tool.show(box);
    save({ box });
  });
  if (number !== proposal) return;
  stage.classList.remove('is-looking');
  find('hint').textContent = 'Wrong object? Tap yours. Drag the corners to adjust the box.';
}

stage.addEventListener('pointerdown', () => { drew = false; }, true);
stage.addEventListener('click', (event) => {
  if (drew || event.target.closest('.h')) return;
  const rect = stage.getBoundingClientRect();
  const { width, height } = sizeOf(state.query);
  propose([((event.clientX - rect.left) / rect.width) * width, ((event.clientY - rect.top) / rect.height) * height]);
});

// Drawing --------------------------------------------------------------------------------------------------------

function query() {
  const { width, height } = sizeOf(state.query);
  const [x1, y1, x2, y2] = state.box ?? [0, 0, width, height];
  return { name: state.query, box: [x1 / width, y1 / height, x2 / width, y2 / height] };
}
const ranks = rankings({ sizeOf, addressOf, query, contains: () => state.contains });

function said() {
  if (sending) return `Sending ${Math.min(sending.done + 1, sending.total)} of ${sending.total} …`;
  if (status?.waiting && isBusy()) return 'Waiting for the photos of other visitors …';
  if (!found?.total) return isBusy() && (status?.pictures ?? 0) > 1 ? 'Reading your photos …' : 'Looking for this object';
  if (found.indexed < found.total) return `${found.indexed} of ${found.total} photos searched …`;
  return found.total === 1 ? '1 photo searched' : `All ${found.total} photos searched`;
}

function draw() {
  const { step } = state;
  const known = state.query && sizeOf(state.query);
  document.body.dataset.step = step;
  for (const part of all('[data-part]')) part.hidden = part.dataset.part !== step;
  for (const button of all('.steps button')) {
    button.disabled = button.dataset.go !== 'photo' && !known;
    if (button.dataset.go === step) button.setAttribute('aria-current', 'step');
    else button.removeAttribute('aria-current');
  }
  if (known && step === 'tap') {
    const image = stage.querySelector('img');
    if (image.getAttribute('src') !== addressOf(state.query)) image.src = addressOf(state.query);
    stage.style.setProperty('--ratio', known.width / known.height);
    if (stage.dataset.picture !== state.query) {
      stage.dataset.picture = state.query;
      tool.open(known.width, known.height, state.box);
    }
  }
  if (known && step === 'photos') crop(find('thumb'), addressOf(state.query), known, query().box);
  if (find('said').textContent !== said()) find('said').textContent = said();
  find('bar').value = found?.total ? found.indexed / found.total : 0;
  find('ask').textContent = found?.total ? 'Add more photos' : find('ask').dataset.first;
  // What goes leaves its place empty, so that nothing jumps.
  const left = (node, visible) => { node.style.visibility = visible ? '' : 'hidden'; };
  if (find('sample-photos')) {
    find('sample-photos').hidden = !state.sample;
    left(find('sample-photos'), !found?.total && !sending);
  }
  left(document.querySelector('[data-do="delete"]'), token);
  document.querySelector('.sheet-bar').hidden = step !== 'photos' || !found?.total;
}

// What a visitor does ----------------------------------------------------------------------------------------------

function pick(kind, camera) {
  const input = find('file');
  input.dataset.kind = kind;
  input.multiple = kind === 'photos' && !camera;
  if (camera) input.setAttribute('capture', 'environment');
  else input.removeAttribute('capture');
  input.click();
}
const given = (kind, files) => {
  if (files.length) kind === 'query' ? newQuery(files[0]) : addPhotos(files);
};
find('file').addEventListener('change', () => {
  const input = find('file');
  given(input.dataset.kind, [...input.files]);
  input.value = '';
});
document.addEventListener('dragover', (event) => { if (event.dataTransfer?.types.includes('Files')) event.preventDefault(); });
document.addEventListener('drop', (event) => {
  event.preventDefault();
  if (state.step !== 'tap') given(state.step === 'photo' ? 'query' : 'photos', [...event.dataTransfer.files]);
});

const sampled = async (name) => new File([await (await fetch(`${root}paper/${name}`)).blob()], name.split('/').at(-1), { type: 'image/jpeg' });

function go(step) {
  if (step !== 'photo' && !state.query) return;
  save({ step });
  if (step === 'tap') find('hint').textContent = 'Wrong object? Tap yours. Drag the corners to adjust the box.';
  if (step === 'photos') watch();
  scrollTo({ top: 0 });
}

const ACTIONS = {
  theme() {
    const dark = document.documentElement.classList.toggle('dark');
    memory(() => localStorage, 'patchify-theme', dark ? 'dark' : 'light');
  },
  right: () => go('photos'),
  scores: () => ranks.open(null),
  close: ranks.close,
  sample: () => { save({ sample: true }); guarded(async () => newQuery(await sampled(SAMPLE.query))); },
  'sample-photos': () => guarded(async () => addPhotos(await Promise.all(SAMPLE.photos.map(sampled)), SAMPLE.contain)),
  delete: () => guarded(async () => { await post('/delete'); forget(); notice('Everything was deleted.'); }),
  // The full tool searches with the same box.
  full: () => { if (state.query && state.box) navigator.sendBeacon(`${root}own/${token}/marks`, JSON.stringify({ picture: state.query, object: 'my object', box: state.box })); },
};

document.addEventListener('click', (event) => {
  const near = (selector) => event.target.closest?.(selector);
  if (near('[data-do]')) ACTIONS[near('[data-do]').dataset.do]();
  else if (near('[data-pick]')) pick(near('[data-pick]').dataset.pick, near('[data-camera]'));
  else if (near('[data-go]')) go(near('[data-go]').dataset.go);
  else if (near('.tick')) {
    const { name } = near('.card').dataset;
    save({ contains: state.contains.includes(name) ? state.contains.filter((one) => one !== name) : [...state.contains, name] });
    ranks.tick();
  } else if (near('.open')) ranks.open(near('[data-name]').dataset.name);
});

// A page that is closed says so; one that is loaded anew is back before the server has deleted anything.
addEventListener('pagehide', () => { if (token) navigator.sendBeacon(`${root}own/${token}/leave?tab=${tab}`); });
addEventListener('pageshow', (event) => { if (event.persisted) watch(); });

find('ask').dataset.first = find('ask').textContent;
token = memory(() => localStorage, TOKEN);
if (token) {
  const before = JSON.parse(memory(() => sessionStorage, STATE) || '{}');
  guarded(async () => {
    status = await mine(`?tab=${tab}`);
    pictures = await mine('/pictures');
    if (before.query && sizeOf(before.query)) save(before);
    watch();
  });
}
draw();
