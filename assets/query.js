// The query picture: upload, drop, paste or take one, and draw, move or resize the box on it, by pointer or keyboard.
// The server is told the box in pixels of the picture; it answers with the same box, so both always agree.
const find = (selector) => element.querySelector(selector);
const SMALLEST = 4;  // pixels on the screen: less is a slip of the finger, not a box
let gesture = null;
let pending = null;  // timer of a box that was moved by keyboard and is not asked for yet
let latest = null;  // the box that was shown last, and on which picture
let told = null;  // the box that was asked for last, until its answer is here
let sending = 0;  // number of the picture that is on its way
let camera = null;
let pictured = picture();  // what was shown last, and the turn of it
let answers = '0';

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function pictureSize() {
  const stage = find('.pf-stage');
  return [Number(stage.dataset.width), Number(stage.dataset.height)];
}

// Nothing where the question is words.
function picture() {
  return find('.pf-stage')?.dataset.picture;
}

function currentBox() {
  return find('.pf-query-box').dataset.box.split(',').map(Number);
}

function show(box) {
  latest = { box, picture: picture() };
  const [width, height] = pictureSize();
  const node = find('.pf-query-box');
  node.classList.remove('is-whole');
  node.dataset.box = box.map((value) => value.toFixed(1)).join(',');
  node.style.left = `${(100 * box[0]) / width}%`;
  node.style.top = `${(100 * box[1]) / height}%`;
  node.style.width = `${(100 * (box[2] - box[0])) / width}%`;
  node.style.height = `${(100 * (box[3] - box[1])) / height}%`;
}

function tell(box) {
  clearTimeout(pending);
  pending = null;
  told = box && box.map((value) => Number(value.toFixed(1)));
  trigger('drawn', { box: told, picture: picture() });
}

// An answer to an older box must not take away the newer one that is being drawn or is asked for already.
watch('value', () => {
  const { turn } = find('.pf-stage-wrap').dataset;
  if (picture() !== pictured || turn !== answers) preview(null);
  [pictured, answers] = [picture(), turn];
  const same = latest && latest.picture === picture();
  const answered = told && same && currentBox().every((value, n) => Math.abs(value - told[n]) < 0.06);
  if (answered || !same) told = null;
  if (!same) {
    clearTimeout(pending);
    pending = null;
    gesture = null;
  } else if (gesture?.moved || pending || told) {
    show(latest.box);
  }
  if (camera) showCamera();
});

function tellWhole() {
  const [width, height] = pictureSize();
  show([0, 0, width, height]);
  find('.pf-query-box').classList.add('is-whole');
  tell(null);
}

function refuse(message) {
  trigger('refused', { message });
}

// Pointer ------------------------------------------------------------------------------------------------------

function at(event) {
  const [width, height] = pictureSize();
  const rect = find('.pf-stage').getBoundingClientRect();
  return [
    clamp(((event.clientX - rect.left) / rect.width) * width, 0, width),
    clamp(((event.clientY - rect.top) / rect.height) * height, 0, height),
  ];
}

element.addEventListener('pointerdown', (event) => {
  const stage = event.target.closest('.pf-stage');
  if (!stage || event.button > 0) return;
  if (event.target.closest('.h')) return begin(event);  // nobody scrolls by a handle
  window.patchifyHold(stage, event, () => begin(event));
});

function begin(event) {
  event.preventDefault();
  const handle = event.target.closest('.h');
  const box = currentBox();
  const inside = event.target.closest('.pf-query-box') && !find('.pf-query-box').classList.contains('is-whole');
  const start = at(event);
  gesture = { kind: handle ? 'resize' : inside ? 'move' : 'draw', start, box, before: box, screen: [event.clientX, event.clientY] };
  gesture.wasWhole = find('.pf-query-box').classList.contains('is-whole');
  if (handle) {
    // The corner opposite the handle stays where it is.
    const west = handle.classList.contains('nw') || handle.classList.contains('sw');
    const north = handle.classList.contains('nw') || handle.classList.contains('ne');
    gesture.start = [west ? box[2] : box[0], north ? box[3] : box[1]];
  }
  find('.pf-stage').setPointerCapture(event.pointerId);
}

element.addEventListener('pointermove', (event) => {
  if (!gesture) return;
  const [x, y] = at(event);
  const [sx, sy] = gesture.start;
  if (gesture.kind === 'move') {
    const [width, height] = pictureSize();
    const [x1, y1, x2, y2] = gesture.before;
    const dx = clamp(x - sx, -x1, width - x2);
    const dy = clamp(y - sy, -y1, height - y2);
    gesture.box = [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  } else {
    gesture.box = [Math.min(x, sx), Math.min(y, sy), Math.max(x, sx), Math.max(y, sy)];
  }
  gesture.moved = Math.hypot(event.clientX - gesture.screen[0], event.clientY - gesture.screen[1]) >= SMALLEST;
  if (gesture.moved) show(gesture.box);
});

function end() {
  if (!gesture) return;
  const { box, before, moved, wasWhole } = gesture;
  gesture = null;
  const thin = box[2] - box[0] < 1 || box[3] - box[1] < 1;
  if (moved && !thin) {
    tell(box);
  } else {
    show(before);
    find('.pf-query-box').classList.toggle('is-whole', wasWhole);
  }
}
element.addEventListener('pointerup', end);
element.addEventListener('pointercancel', end);

// Keyboard -----------------------------------------------------------------------------------------------------

element.addEventListener('keydown', (event) => {
  if (!event.target.closest('.pf-query-box')) return;
  const [width, height] = pictureSize();
  if (event.key === 'Home') {
    event.preventDefault();
    return tellWhole();
  }
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  let [x1, y1, x2, y2] = currentBox();
  const dx = way[0] * Math.max(1, width / 40);
  const dy = way[1] * Math.max(1, height / 40);
  if (event.shiftKey) {
    x2 = clamp(x2 + dx, Math.min(x1 + Math.max(1, width / 40), width), width);
    y2 = clamp(y2 + dy, Math.min(y1 + Math.max(1, height / 40), height), height);
  } else {
    const moveX = clamp(dx, -x1, width - x2);
    const moveY = clamp(dy, -y1, height - y2);
    [x1, x2, y1, y2] = [x1 + moveX, x2 + moveX, y1 + moveY, y2 + moveY];
  }
  show([x1, y1, x2, y2]);
  clearTimeout(pending);
  // Keys come in rows: ask when they pause, and later while an answer is awaited, so that questions never pile up.
  pending = setTimeout(() => tell([x1, y1, x2, y2]), told ? 1000 : 350);
});

// Pictures -----------------------------------------------------------------------------------------------------

// Uploads lie in folders named by their content and are deleted when they are read: without a name of its own, the same
// photo sent by a whole class at once would be one file, gone after the first of them.
function ownName(file) {
  const token = Math.random().toString(36).slice(2, 8);
  const dot = file.name.lastIndexOf('.');
  const name = dot > 0 ? `${file.name.slice(0, dot)}-${token}${file.name.slice(dot)}` : `${file.name}-${token}`;
  return new File([file], name, { type: file.type });
}

// The picture that is on its way, until the answer, or a refusal, brings the query anew.
function preview(file) {
  const before = find('.pf-preview');
  if (before) {
    URL.revokeObjectURL(before.src);
    before.remove();
  }
  if (!file) return;
  const image = new Image();
  image.className = 'pf-preview';
  image.alt = 'Your picture, being sent';
  image.onerror = () => preview(null);  // a kind that this browser does not show
  image.src = URL.createObjectURL(file);
  find('.pf-stage-wrap').append(image);
}

async function send(file) {
  if (!file) return;
  sending += 1;
  const mine = sending;
  find('.pf-stage-wrap').classList.add('is-sending');
  preview(file);
  try {
    const { path } = await upload(ownName(file));
    if (mine === sending) trigger('picked', { path });  // else a later picture has overtaken this one
  } catch (error) {
    preview(null);  // Gradio has shown what went wrong (too large, no connection) by itself
  } finally {
    if (mine === sending) find('.pf-stage-wrap').classList.remove('is-sending');
  }
}

async function paste() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((name) => name.startsWith('image/'));
      if (type) return send(new File([await item.getType(type)], `pasted.${type.split('/')[1]}`, { type }));
    }
    refuse('The clipboard contains no picture: copy one first.');
  } catch (error) {
    refuse('The browser does not let the page read the clipboard: press Ctrl+V (or Cmd+V) instead.');
  }
}

document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith('image/'));
  if (file) send(file);
});

// Anywhere on the page: a file that misses the query would otherwise make the browser leave the page for it.
for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    find('.pf-stage-wrap').classList.toggle('is-over', kind === 'dragover');
    if (kind === 'drop') send(event.dataTransfer.files[0]);
  });
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    return refuse('This browser gives the page no camera: upload a picture instead.');
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    stopCamera();  // of an earlier click
    camera = stream;
  } catch (error) {
    return refuse('The camera cannot be used (not there, or not allowed): upload a picture instead.');
  }
  showCamera();
  find('.pf-camera [data-do="shoot"]').focus();
}

// Also after an answer, which draws the query anew: a camera that is on must be seen to be on.
function showCamera() {
  const video = find('.pf-camera video');
  find('.pf-camera').hidden = false;
  if (video.srcObject !== camera) video.srcObject = camera;
  video.play().catch(() => {});  // only ever stopped by the next picture or by Cancel
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  find('.pf-camera').hidden = true;
}

function shoot() {
  const video = find('.pf-camera video');
  if (!video.videoWidth) return;  // no picture has come yet
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  stopCamera();
  canvas.toBlob((blob) => blob && send(new File([blob], 'camera.jpg', { type: 'image/jpeg' })), 'image/jpeg', 0.92);
}

element.addEventListener('click', (event) => {
  const action = event.target.closest('[data-do]')?.dataset.do;
  if (action === 'upload') find('input[type=file]').click();
  if (action === 'paste') paste();
  if (action === 'camera') openCamera();
  if (action === 'stop') stopCamera();
  if (action === 'shoot') shoot();
  if (action === 'whole' && picture()) tellWhole();
});

element.addEventListener('change', (event) => {
  if (event.target.type !== 'file') return;
  send(event.target.files[0]);
  event.target.value = '';  // so that the same file can be chosen again
});
