/** JSON values as YAML text that any reader of YAML 1.1 or 1.2 takes for the same values. */

const PLAIN = /^[A-Za-z_/][\w./@:+-]*$/;
const WORDS = /^(true|false|yes|no|on|off|null|none|y|n|~)$/i;

function scalar(value: unknown): string {
  if (typeof value === "string") {
    const plain = PLAIN.test(value) && !WORDS.test(value) && !value.endsWith(":") && !value.includes(": ");
    return plain ? value : JSON.stringify(value);
  }
  if (typeof value === "number" && !Number.isInteger(value)) return decimal(value);
  return JSON.stringify(value ?? null);
}

/** YAML 1.1 takes `1e-5` for a string: it wants a point. */
function decimal(value: number): string {
  const text = String(value);
  return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
}

function isBlock(value: unknown): value is object {
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

export function yaml(value: unknown, indent = ""): string {
  if (!isBlock(value))
    return Array.isArray(value) ? "[]\n" : typeof value === "object" && value ? "{}\n" : `${scalar(value)}\n`;
  if (Array.isArray(value)) {
    if (value.every((each) => !isBlock(each))) return `[${value.map(scalar).join(", ")}]\n`;
    return value.map((each) => `${indent}- ${yaml(each, `${indent}  `).replace(/^ +/, "")}`).join("");
  }
  return Object.entries(value)
    .map(([key, each]) => {
      const nested = isBlock(each) && !(Array.isArray(each) && each.every((one) => !isBlock(one)));
      return `${indent}${scalar(key)}:${nested ? `\n${yaml(each, `${indent}  `)}` : ` ${yaml(each)}`}`;
    })
    .join("");
}
