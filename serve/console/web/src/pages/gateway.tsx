/** Providers, routes, limits, usage and cost. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Gateway() {
  return (
    <Page title="Gateway">
      <Empty title="No provider yet" />
    </Page>
  );
}
