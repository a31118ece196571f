// Dark, light, or as the system has it. A script of its own that runs before anything is drawn.
"use strict";
(() => {
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;

  function kept() {
    try {
      const theme = localStorage.getItem("evp-theme");
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system"; // Storage may be forbidden.
    }
  }

  function show(theme) {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
  }

  show(kept());
  document.addEventListener("DOMContentLoaded", () => {
    show(root.dataset.theme);
    document.getElementById("theme").addEventListener("click", () => {
      const theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
      try {
        localStorage.setItem("evp-theme", theme);
      } catch {
        // Then it holds until the page is left.
      }
      show(theme);
    });
  });
})();
