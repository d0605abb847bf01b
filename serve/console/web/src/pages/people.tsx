/** Who may do what: accounts, teams, keys; and for everybody their own name, password, sessions and personal data. */
import { useMay, useSession } from "../session";
import { Tabs } from "../ui/controls";
import { Page } from "../ui/page";
import { NoPermission } from "../ui/state";
import { useParam } from "../url";
import { OneAccount } from "./people-account";
import { Accounts } from "./people-accounts";
import { Keys } from "./people-keys";
import { Teams } from "./people-teams";
import { You } from "./people-you";

export default function People() {
  const may = {
    accounts: useMay("GET /api/v1/accounts"),
    teams: useMay("GET /api/v1/teams"),
    keys: useMay("GET /api/v1/keys"),
  };
  const me = useSession();
  const [tab, setTab] = useParam("tab", may.accounts ? "accounts" : "you");
  const [account] = useParam("account");
  if (account) {
    return (
      <Page title={account} may="GET /api/v1/accounts">
        <OneAccount key={account} name={account} />
      </Page>
    );
  }
  const tabs = [
    ...(may.accounts ? [["accounts", "Accounts"] as const] : []),
    ...(may.teams ? [["teams", "Teams"] as const] : []),
    ...(may.keys ? [["keys", "Keys"] as const] : []),
    ["you", `You: ${me.account}`] as const,
  ];
  return (
    <Page title="People">
      <Tabs label="Who is shown" tabs={tabs} chosen={tab} choose={setTab}>
        {!tabs.some(([name]) => name === tab) && <NoPermission />}
        {tab === "accounts" && may.accounts && <Accounts />}
        {tab === "teams" && may.teams && <Teams />}
        {tab === "keys" && may.keys && <Keys />}
        {tab === "you" && <You />}
      </Tabs>
    </Page>
  );
}
