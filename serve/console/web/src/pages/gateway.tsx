/** The gateway: what it was asked and what that cost, providers and their keys, routes, prices, limits and budgets. */
import { Tabs } from "../ui/controls";
import { Page } from "../ui/page";
import { useParam } from "../url";
import { Limits } from "./gateway/limits";
import { Prices } from "./gateway/prices";
import { Providers } from "./gateway/providers";
import { Routes } from "./gateway/routes";
import { Usage } from "./gateway/usage";

const TABS = [
  ["usage", "Usage and cost"],
  ["providers", "Providers"],
  ["routes", "Routes"],
  ["prices", "Prices"],
  ["limits", "Limits and budgets"],
] as const;

export default function Gateway() {
  const [tab, setTab] = useParam("tab", "usage");
  const chosen = TABS.some(([id]) => id === tab) ? tab : "usage";
  return (
    <Page title="Gateway">
      <Tabs label="Gateway" tabs={TABS} chosen={chosen} choose={setTab}>
        {chosen === "usage" && <Usage />}
        {chosen === "providers" && <Providers />}
        {chosen === "routes" && <Routes />}
        {chosen === "prices" && <Prices />}
        {chosen === "limits" && <Limits />}
      </Tabs>
    </Page>
  );
}
