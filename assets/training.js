// A training that is under way can be given up.
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-do="cancel"]')) trigger('cancel', {});
});
