// A citation opens its passage and moves there; without this script the link still moves there.
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a.cite");
  if (!link) return;
  const passage = document.getElementById(link.getAttribute("href").slice(1));
  if (!passage) return;
  event.preventDefault();
  passage.open = true;
  passage.querySelector("summary").focus({ preventScroll: true });
  passage.scrollIntoView({ block: "nearest", behavior: "smooth" });
});
