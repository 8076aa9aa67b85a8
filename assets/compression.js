// Choice of size and codebook. Keys come in rows, so the server is asked when they pause.
let asking = null;
const value = (name) => element.querySelector(`input[name="${name}"]:checked`)?.value;

element.addEventListener('change', (event) => {
  const size = element.querySelector('input[name="pf-bytes"]:checked');
  if (!size) return;
  fit();
  clearTimeout(asking);
  const chosen = { factory: size.value, codebook: value('pf-book') };
  asking = setTimeout(() => trigger('chosen', chosen), 200);
});

function fit() {
  const size = element.querySelector('input[name="pf-bytes"]:checked');
  if (size) element.querySelector('.is-books').disabled = size.dataset.learns !== '1';
}

// The server puts the choice back when a training was cancelled. Buttons that were clicked do not follow their markup.
watch('value', () => {
  clearTimeout(asking);
  for (const button of element.querySelectorAll('input[type=radio]')) button.checked = button.defaultChecked;
  fit();
});
