/** One tooltip for the page: over the thing that is pointed at or focused, inside the window, gone on Escape. */
interface Tip {
  text: string;
  /** Centre, top and bottom of what it is about, in the window. */
  x: number;
  top: number;
  bottom: number;
}

class Tips {
  shown = $state.raw<Tip | undefined>(undefined);

  show(text: string, element: Element): void {
    const { left, width, top, bottom } = element.getBoundingClientRect();
    this.shown = { text, x: left + width / 2, top, bottom };
  }

  hide(): void {
    this.shown = undefined;
  }
}

export const tips = new Tips();
export const TIP_ID = "tip";

/** Svelte attachment: shows `text` while the element is pointed at or has the focus. */
export function tip(text: string) {
  return (element: HTMLElement) => {
    const show = () => tips.show(text, element);
    const hide = () => tips.hide();
    element.setAttribute("aria-describedby", TIP_ID);
    const events = { mouseenter: show, focusin: show, mouseleave: hide, focusout: hide };
    for (const [name, handle] of Object.entries(events)) element.addEventListener(name, handle);
    return () => {
      hide();
      for (const [name, handle] of Object.entries(events))
        element.removeEventListener(name, handle);
    };
  };
}
