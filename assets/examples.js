// A click on a thumbnail asks for that example.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('example', { id: Number(button.dataset.example) });
});
