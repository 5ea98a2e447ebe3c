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
