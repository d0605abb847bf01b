/** Sends a file in pieces. What has arrived stays, so that the same file chosen again goes on where it stopped. */
import { ApiError, api, CONSOLE_HEADER, errorOf, type Schemas } from "../../api";
import { apiRoot } from "../../base";
import { Sha256 } from "../../sha256";

type Upload = Schemas["Upload"];
export type Progress = { phase: "read" | "sent"; done: number; size: number };

const READ_BYTES = 1 << 20;
const PIECE_BYTES = 4 << 20;
const TRIES = 8;

/** `told` hears how far it is. Rejects with the service's word, or an AbortError. */
export async function upload(
  file: File,
  told: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Upload> {
  const sha256 = await digest(file, told, signal);
  const begun = await api.POST("/api/v1/uploads", {
    body: { name: file.name, size_bytes: file.size, sha256 },
    signal,
  });
  let now = begun.data as Upload;
  let tries = 0;
  while (!now.complete) {
    told({ phase: "sent", done: now.offset, size: file.size });
    try {
      if (tries > 0) now = await arrived(now.id, signal);
      if (now.complete) break;
      now = await send(now, file, signal);
      tries = 0;
    } catch (error) {
      tries += 1;
      if (!passes(error) || tries >= TRIES) throw error;
      await new Promise((done) => setTimeout(done, Math.min(250 * 2 ** tries, 8_000)));
    }
  }
  told({ phase: "sent", done: file.size, size: file.size });
  return now;
}

async function digest(file: File, told: (progress: Progress) => void, signal: AbortSignal): Promise<string> {
  const made = new Sha256();
  for (let at = 0; at < file.size; at += READ_BYTES) {
    signal.throwIfAborted();
    made.update(new Uint8Array(await file.slice(at, at + READ_BYTES).arrayBuffer()));
    told({ phase: "read", done: Math.min(at + READ_BYTES, file.size), size: file.size });
  }
  return made.hex();
}

async function arrived(id: string, signal: AbortSignal): Promise<Upload> {
  const found = await api.GET("/api/v1/uploads/{upload_id}", {
    params: { path: { upload_id: id } },
    signal,
  });
  return found.data as Upload;
}

async function send(now: Upload, file: File, signal: AbortSignal): Promise<Upload> {
  let response: Response;
  try {
    response = await fetch(`${apiRoot}/api/v1/uploads/${now.id}`, {
      method: "PUT",
      headers: { ...CONSOLE_HEADER, "upload-offset": String(now.offset) },
      body: file.slice(now.offset, now.offset + PIECE_BYTES),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError(0, "unreachable", "the connection broke off: choose the file again to go on", null);
  }
  if (!response.ok) throw await errorOf(response);
  return (await response.json()) as Upload;
}

/** A broken connection, a service that starts again, or more that has arrived than was heard of. */
function passes(error: unknown): boolean {
  return (
    error instanceof ApiError && [0, 409, 502, 503, 504].includes(error.status) && error.code !== "disk_full"
  );
}
