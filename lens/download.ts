/** Files to take away, made in the page. */

export function download(content: Blob, name: string): void {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(content);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}

/** The drawing by itself: variables of the page's theme replaced by what they are. */
function standalone(svg: SVGSVGElement): string {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("font-family", "system-ui, sans-serif");
  const style = getComputedStyle(document.documentElement);
  const text = new XMLSerializer().serializeToString(copy);
  const resolved = text.replace(
    /var\((--[\w-]+)[^)]*\)/g,
    (whole, name: string) => style.getPropertyValue(name).trim() || whole,
  );
  const { width, height } = svg.getBoundingClientRect();
  const ground = `<rect width="${width}" height="${height}" fill="${style.getPropertyValue("--card")}"/>`;
  return resolved.replace(/(<svg[^>]*>)/, `$1${ground}`);
}

export function downloadSvg(svg: SVGSVGElement, name: string): void {
  download(new Blob([standalone(svg)], { type: "image/svg+xml" }), `${name}.svg`);
}

export async function downloadPng(svg: SVGSVGElement, name: string): Promise<void> {
  const { width, height } = svg.getBoundingClientRect();
  const image = new Image();
  const url = URL.createObjectURL(new Blob([standalone(svg)], { type: "image/svg+xml" }));
  try {
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d")!.drawImage(image, 0, 0, 2 * width, 2 * height);
    const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done));
    if (blob) download(blob, `${name}.png`);
  } finally {
    URL.revokeObjectURL(url);
  }
}

export function downloadJson(value: unknown, name: string): void {
  download(
    new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }),
    `${name}.json`,
  );
}

/** Around a picture, in CSS pixels. */
const MARGIN = 20;

/**
 * An element as a picture, to the clipboard or, where the browser has none to offer, as a file. What has
 * data-aside (what one types in, mostly) is left out.
 * @returns what was done.
 */
export async function pictureOf(element: HTMLElement, name: string): Promise<"copied" | "saved"> {
  const { toBlob } = await import("html-to-image");
  const isShown = (node: Node) =>
    !(node instanceof HTMLElement && node.dataset.aside !== undefined);
  const [width, height] = [element.scrollWidth + 2 * MARGIN, element.scrollHeight + 2 * MARGIN];
  const drawn = toBlob(element, {
    ...{ width, height, pixelRatio: 2, skipFonts: true, filter: isShown },
    style: { margin: `${MARGIN}px`, width: `${element.scrollWidth}px` },
    backgroundColor: getComputedStyle(document.body).backgroundColor,
  }).then((blob) => {
    if (!blob) throw new Error("the picture cannot be drawn");
    return blob;
  });
  try {
    // A promise, so that it still counts as asked for by the person.
    await navigator.clipboard.write([new ClipboardItem({ "image/png": drawn })]);
    return "copied";
  } catch {
    download(await drawn, `${name}.png`);
    return "saved";
  }
}
