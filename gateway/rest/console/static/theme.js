// Before anything is drawn, so that a page which was set to dark does not flash.
const chosen = localStorage.getItem("eagleeye.theme");
if (chosen) document.documentElement.dataset.theme = chosen;
