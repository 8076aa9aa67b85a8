// A training that is under way: how long it has taken, counted here so that its button stays where it is, and an end to it.
let began = null;
let counting = null;

element.addEventListener('click', (event) => {
  if (event.target.closest('[data-do="cancel"]')) trigger('cancel', {});
});

function count() {
  const seconds = element.querySelector('.pf-sec');
  if (seconds) {
    began ??= Date.now();
    seconds.textContent = `${Math.round((Date.now() - began) / 1000)} s`;
  } else {
    clearInterval(counting);
    [began, counting] = [null, null];
  }
}

watch('value', () => {
  if (element.querySelector('.pf-sec')) counting ??= setInterval(count, 500);
});
