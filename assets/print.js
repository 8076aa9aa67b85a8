// A page to print, in the window that walk.js opened for it at the click; without leave for a window it is saved as a file.
watch('value', () => {
  if (!props.value) return;
  const made = JSON.parse(props.value);
  const paper = window.patchifyPaper;
  window.patchifyPaper = null;
  if (!made.html) return void paper?.close();  // a notice has said why
  if (!paper || paper.closed) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([made.html], { type: 'text/html' }));
    link.download = 'patchify.html';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    return;
  }
  paper.document.open();
  paper.document.write(made.html);
  paper.document.close();
  paper.addEventListener('load', () => paper.print(), { once: true });
});
