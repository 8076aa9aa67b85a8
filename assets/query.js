// The query picture: upload, drop, paste or take one, and draw, move or resize the box on it (box.js). The server is sent
// the box in pixels of the picture; it answers with the same box, so both always agree.
const find = (selector) => element.querySelector(selector);
const tool = window.patchifyBox(element, { label: 'Query box', changed: boxed });
let pending = null;  // timer of a box that was moved by keyboard and is not sent yet
let latest = null;  // the box that was drawn last, and on which picture
let sent = null;  // the box that was sent last, until its answer is here
let sending = 0;  // number of the picture that is on its way
let camera = null;
let pictured = picture();  // what was shown last, and the turn of it
let answers = '0';

// Nothing where the query is words.
function picture() {
  return find('.pf-stage')?.dataset.picture;
}

function boxed(box, by) {
  latest = { box, picture: picture() };
  clearTimeout(pending);
  pending = null;
  // Keys come in rows: send when they pause, and later while an answer is awaited, so that queries never pile up.
  if (by === 'key') pending = setTimeout(submit, sent ? 1000 : 350);
  else submit();
}

function submit() {
  pending = null;
  sent = latest.box;
  trigger('drawn', { box: sent, picture: picture() });
}

// An answer to an older box must not take away the newer one that is being drawn or was sent already.
watch('value', () => {
  const { turn } = find('.pf-stage-wrap').dataset;
  if (picture() !== pictured || turn !== answers) preview(null);
  [pictured, answers] = [picture(), turn];
  const same = latest && latest.picture === picture();
  if (!same || (sent && tool.corners().every((value, n) => Math.abs(value - sent[n]) < 0.06))) sent = null;
  if (!same) {
    clearTimeout(pending);
    pending = null;
  } else if (pending || sent) {
    tool.show(latest.box);
  }
  tool.redrawn();
  if (camera) showCamera();
});

function refuse(message) {
  trigger('refused', { message });
}

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
  if (action === 'whole' && picture()) tool.whole();
});

element.addEventListener('change', (event) => {
  if (event.target.type !== 'file') return;
  send(event.target.files[0]);
  event.target.value = '';  // so that the same file can be chosen again
});
