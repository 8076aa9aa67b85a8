// Choice of size and codebook. Keys come in rows, so the server is asked when they pause.
let asking = null;
const value = (name) => element.querySelector(`input[name="${name}"]:checked`)?.value;

element.addEventListener('change', (event) => {
  const size = element.querySelector('input[name="pf-bytes"]:checked');
  if (!size) return;
  element.querySelector('.is-books').disabled = size.dataset.learns !== '1';
  clearTimeout(asking);
  asking = setTimeout(() => trigger('chosen', { factory: value('pf-bytes'), codebook: value('pf-book') }), 200);
});
