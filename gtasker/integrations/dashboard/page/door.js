// A token behind the # of an address never leaves the browser by itself; it is sent here once, by the form.
const form = document.querySelector("form");
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = token;
  form.submit();
} else {
  document.querySelector("#note").hidden = !location.search.includes("wrong");
}
