import { expect, test } from "vitest";
import { numbersOf } from "./operations-health";

test("what the metrics tell of backups is found among all the others", () => {
  const text = [
    "# HELP raymill_backup_last_success_timestamp_seconds When the newest backup was begun, Unix time.",
    "# TYPE raymill_backup_last_success_timestamp_seconds gauge",
    "raymill_backup_last_success_timestamp_seconds 1.7640288e+09",
    'raymill_queue_limit{queue="train"} 2.0',
    "raymill_backup_interval_seconds 86400.0",
  ].join("\n");
  expect(numbersOf(text)).toEqual({
    last_success_timestamp_seconds: 1_764_028_800,
    interval_seconds: 86_400,
  });
});
