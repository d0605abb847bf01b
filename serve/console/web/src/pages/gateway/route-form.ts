/** What the form of a route holds, and the configuration that follows. What it does not show stays as it was. */

export type Target = { provider: string; model: string; weight: string; order: string; rest: Config };
export type Config = Record<string, unknown>;
export type Form = {
  name: string;
  targets: Target[];
  strategy: string;
  sticky: string;
  keepTraces: boolean;
  cache: string;
  attempts: string;
  breakerRate: string;
  breakerOpen: string;
};

export const NEW_TARGET: Target = { provider: "", model: "", weight: "1", order: "0", rest: {} };

function section(config: Config, name: string): Config {
  const value = config[name];
  return value && typeof value === "object" && !Array.isArray(value) ? (value as Config) : {};
}

const text = (value: unknown, usual: string) =>
  value === null || value === undefined ? usual : String(value);

export function targetsOf(config: Config): Target[] {
  const told = Array.isArray(config.targets) ? (config.targets as Config[]) : [];
  return told.map(({ provider, model, weight, order, ...rest }) => ({
    provider: text(provider, ""),
    model: text(model, ""),
    weight: text(weight, "1"),
    order: text(order, "0"),
    rest,
  }));
}

export function formOf(name: string, config: Config): Form {
  const targets = targetsOf(config);
  return {
    name,
    targets: targets.length > 0 ? targets : [NEW_TARGET],
    strategy: text(config.strategy, "weighted"),
    sticky: text(config.sticky, ""),
    keepTraces: config.keep_traces === true,
    cache: text(config.cache_ttl_s, ""),
    attempts: text(section(config, "retries").attempts, "2"),
    breakerRate: text(section(config, "breaker").error_rate, "0.5"),
    breakerOpen: text(section(config, "breaker").open_s, "10"),
  };
}

export function configOf(form: Form, before: Config): Config {
  return {
    ...before,
    targets: form.targets.map(({ provider, model, weight, order, rest }) => ({
      ...rest,
      provider,
      model,
      weight: Number(weight),
      order: Number(order),
    })),
    strategy: form.strategy,
    sticky: form.sticky || null,
    keep_traces: form.keepTraces,
    cache_ttl_s: form.cache === "" ? null : Number(form.cache),
    retries: { ...section(before, "retries"), attempts: Number(form.attempts) },
    breaker: {
      ...section(before, "breaker"),
      error_rate: Number(form.breakerRate),
      open_s: Number(form.breakerOpen),
    },
  };
}

/** Targets of the same order share by weight; the next order is asked when all of the one before have failed. */
export function chainOf(config: Config): { order: number; share: number; target: Target }[] {
  const targets = targetsOf(config);
  return targets
    .map((target) => {
      const peers = targets.filter((each) => each.order === target.order);
      const all = peers.reduce((sum, each) => sum + Number(each.weight), 0);
      return { order: Number(target.order), share: all ? Number(target.weight) / all : 0, target };
    })
    .sort((one, other) => one.order - other.order);
}
