/** SHA-256 (FIPS 180-4) of bytes that come in pieces. The browser's own takes a whole file into memory at once, and is
 * not there at all where the console is reached over plain HTTP from another machine. */

const PRIMES = primes(64);
/** The first 32 bits of a root's fraction, of which the standard's constants are made. */
const bits = (root: number) => Math.floor((root % 1) * 2 ** 32);
const K = PRIMES.map((prime) => bits(Math.cbrt(prime)));
const START = PRIMES.slice(0, 8).map((prime) => bits(Math.sqrt(prime)));
const BLOCK = 64;

export class Sha256 {
  private readonly state = Uint32Array.from(START);
  private readonly block = new Uint8Array(BLOCK);
  private readonly view = new DataView(this.block.buffer);
  private readonly words = new Uint32Array(BLOCK);
  private filled = 0;
  private length = 0;

  update(bytes: Uint8Array): this {
    this.length += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(BLOCK - this.filled, bytes.length - at);
      this.block.set(bytes.subarray(at, at + taken), this.filled);
      this.filled += taken;
      at += taken;
      if (this.filled === BLOCK) {
        this.mix();
        this.filled = 0;
      }
    }
    return this;
  }

  /** Ends it: nothing may be added after. */
  hex(): string {
    const length = this.length * 8;
    const rest = new Uint8Array((this.filled < 56 ? 56 : 120) - this.filled + 8);
    rest[0] = 0x80;
    const view = new DataView(rest.buffer);
    view.setUint32(rest.length - 8, Math.floor(length / 2 ** 32));
    view.setUint32(rest.length - 4, length % 2 ** 32);
    this.update(rest);
    return [...this.state].map((word) => word.toString(16).padStart(8, "0")).join("");
  }

  private mix() {
    const { words, state } = this;
    const word = (at: number) => words[at] as number;
    for (let at = 0; at < 16; at += 1) words[at] = this.view.getUint32(at * 4);
    for (let at = 16; at < BLOCK; at += 1) {
      const [early, late] = [word(at - 15), word(at - 2)];
      const small = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
      const great = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
      words[at] = word(at - 16) + small + word(at - 7) + great;
    }
    let [a, b, c, d, e, f, g, h] = [...state] as Eight;
    for (let at = 0; at < BLOCK; at += 1) {
      const first =
        h +
        (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) +
        ((e & f) ^ (~e & g)) +
        (K[at] as number) +
        word(at);
      const second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    for (const [at, value] of [a, b, c, d, e, f, g, h].entries()) state[at] = (state[at] as number) + value;
  }
}

type Eight = [number, number, number, number, number, number, number, number];

function turned(word: number, by: number): number {
  return (word >>> by) | (word << (32 - by));
}

function primes(count: number): number[] {
  const found: number[] = [];
  for (let next = 2; found.length < count; next += 1) {
    if (found.every((prime) => next % prime !== 0)) found.push(next);
  }
  return found;
}
