// The theme is the system's until the visitor chooses one; the choice stays in this browser.
const THEMES = ["auto", "light", "dark"];
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try {
  theme = localStorage.getItem("gtasker-theme") ?? "auto";
} catch {
  // Storage may be forbidden; then the choice lasts as long as the page.
}

function applyTheme() {
  const isDark = theme === "dark" || (theme !== "light" && systemIsDark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("gtasker-theme", theme);
  } catch {
    // As above.
  }
  applyTheme();
  return theme;
}

systemIsDark.addEventListener("change", applyTheme);
applyTheme();
