// Validates custom resources, a JSON list on stdin, by the schemas of their definitions.
import { CiliumLocalRedirectPolicy, CiliumNetworkPolicy } from "@kubernetes-models/cilium/cilium.io/v2";
import { PrometheusRule, ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const kinds = { CiliumLocalRedirectPolicy, CiliumNetworkPolicy, PrometheusRule, ServiceMonitor };
let text = "";
for await (const part of process.stdin) text += part;
for (const object of JSON.parse(text)) {
  const Kind = kinds[object.kind];
  if (!Kind) throw new Error(`no schema for ${object.kind}`);
  new Kind(object).validate();
}
