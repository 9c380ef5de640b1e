// What all pages share: elements made of text nodes, the page's data, light and dark.
const lossmask = (() => {
  "use strict";

  /** Make an element; children are nodes or text, never markup. */
  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  /** Make an element of SVG with attributes. */
  function svg(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** Make a button. */
  function button(className, label, pressed) {
    const made = element("button", className, label);
    made.type = "button";
    made.addEventListener("click", pressed);
    return made;
  }

  /** Read the data that the page was made from. */
  function data() {
    return JSON.parse(document.getElementById("data").textContent);
  }

  const themes = ["auto", "light", "dark"];
  const signs = { auto: "◐", light: "☀", dark: "☾" };

  function kept() {
    try {
      return themes.includes(localStorage.lossmaskTheme) ? localStorage.lossmaskTheme : "auto";
    } catch {
      return "auto"; // a sandboxed frame keeps nothing
    }
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.lossmaskTheme = theme;
    } catch {
      // as above
    }
  }

  /** Make the button that goes through the themes: the system's, light, dark. */
  function themeButton() {
    const show = () => {
      const theme = document.documentElement.dataset.theme;
      made.textContent = signs[theme];
      made.title = `Colours: ${theme}`;
      made.setAttribute("aria-label", made.title);
    };
    const made = button("lm-button lm-theme", "", () => {
      const next = themes.indexOf(document.documentElement.dataset.theme) + 1;
      setTheme(themes[next % themes.length]);
      show();
    });
    show();
    return made;
  }

  document.documentElement.dataset.theme = kept();

  return { element, svg, button, data, setTheme, themeButton };
})();
