// SPDX-License-Identifier: Apache-2.0

package truth

const (
	denyBoth = `{podSelector: {}, policyTypes: [Ingress, Egress]}`
	denyIn   = `{podSelector: {}}`
	subjectX = `subject: {namespaces: {matchLabels: {team: x}}}`
)

// Cases are tried one after the other: neighbours open different cells of TCP and UDP, or nobody could tell when the second is in force. "!c.To.In("x") || …" reads: whoever is not in
// x is open; the pods of x are open to ….
var Cases = []Case{
	{"without policies everything is open", nil,
		func(c Cell) bool { return true }},
	{"default deny of both directions", map[string]string{"x/p": denyBoth},
		func(c Cell) bool { return !c.From.In("x") && !c.To.In("x") }},
	{"without policyTypes and rules ingress is isolated", map[string]string{"x/p": denyIn},
		func(c Cell) bool { return !c.To.In("x") }},
	{"an empty egress does not isolate egress", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: b}}, egress: []}`},
		func(c Cell) bool { return !c.To.Is("x/b") }},
	{"egress rules without policyTypes isolate both directions", map[string]string{"x/p": `{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") && (!c.From.In("x") || c.To.In("w")) }},
	{"policyTypes Egress alone", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress]}`},
		func(c Cell) bool { return !c.From.In("x") }},
	{"ingress rules without the type mean nothing", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.In("x") }},
	{"egress rules without the type mean nothing", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("x") }},
	{"an empty rule allows everything", map[string]string{"x/deny": denyBoth, "x/all": `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`},
		func(c Cell) bool { return !c.From.In("x") && (!c.To.In("x") || c.To.Is("x/a")) }},
	{"empty from and ports are everybody and every port", map[string]string{"x/deny": denyIn, "x/all": `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [], ports: []}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.To.Is("x/b") }},
	{"empty to and ports are everybody and every port", map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Egress]}`, "x/all": `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{to: [], ports: []}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.From.Is("x/b") }},
	{"an empty ingress opens nothing", map[string]string{"w/p": `{podSelector: {}, ingress: [], policyTypes: [Ingress]}`},
		func(c Cell) bool { return !c.To.In("w") }},
	{"a policy that selects nobody", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: q}}, policyTypes: [Ingress, Egress]}`},
		func(c Cell) bool { return true }},
	{"a policy of one namespace says nothing about pods of that name in others", map[string]string{"z/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}`},
		func(c Cell) bool { return !c.From.Is("z/a") && !c.To.Is("z/a") }},

	{"a podSelector means the policy's own namespace", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("x/b") }},
	{"a namespaceSelector", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") }},
	{"two selectors in one peer are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}, podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("w/b") }},
	{"two peers are an or", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") || c.From.Is("x/b") }},
	{"an empty podSelector is all of the namespace", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("x") }},
	{"an empty namespaceSelector is every pod and no node", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.IsPod() }},
	{"egress to a namespace and pods of it", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: z}}, podSelector: {matchLabels: {tier: back}}}]}]}`},
		func(c Cell) bool { return !c.From.Is("x/a") || c.To.Is("z/b") }},
	{"operator In", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [w, z]}]}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w", "z") }},
	{"operator NotIn holds without the label too", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: env, operator: NotIn, values: [prod]}]}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("z") }},
	{"operator Exists", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Called("a", "b") }},
	{"operator DoesNotExist", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Called("c") }},
	{"labels and expressions are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: a}, matchExpressions: [{key: tier, operator: In, values: [back]}]}}, {podSelector: {matchLabels: {pod: b}, matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("x/b") }},
	{"subjects by expressions", map[string]string{"x/p": `{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}`},
		func(c Cell) bool { return !c.To.Is("x/b", "x/c") }},
	{"pods of the nodes' network are neither subject nor peer", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {tier: front}}}]}], egress: [{to: [{podSelector: {matchLabels: {tier: front}}}]}]}`},
		func(c Cell) bool { return !c.From.Is("x/a") && !c.To.Is("x/a") }},

	{"an ipBlock holds for pods", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: $pods-1.4}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.IsPod() && c.From.Node == 1 && !c.V6 }},
	{"an ipBlock of IPv6", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "$pods-2.6"}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.IsPod() && c.From.Node == 2 && c.V6 }},
	{"an ipBlock without some pods", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$x/b.4/32]}}, {ipBlock: {cidr: "::/0", except: ["$w/a.6/128", "$pods-1.6"]}}]}]}`},
		func(c Cell) bool {
			return !c.To.In("x") || !c.V6 && !c.From.Is("x/b") || c.V6 && !c.From.Is("w/a") && (!c.From.IsPod() || c.From.Node != 1)
		}},
	{"an exception of one block does not bind another", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$pods-1.4]}}, {ipBlock: {cidr: $w/b.4/32}}]}]}`},
		func(c Cell) bool {
			return !c.To.In("x") || !c.V6 && (!c.From.IsPod() || c.From.Node != 1 || c.From.Is("w/b"))
		}},
	{"an ipBlock of a node", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: $node-1.4/32}}, {ipBlock: {cidr: "$node-2.6/128"}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("node-1") && !c.V6 || c.From.Is("node-2") && c.V6 }},
	{"egress to ipBlocks", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $pods-2.4, except: [$z/b.4/32]}}, {ipBlock: {cidr: "$node-2.6/128"}}]}]}`},
		func(c Cell) bool {
			return !c.From.In("x") || !c.V6 && c.To.IsPod() && c.To.Node == 2 && !c.To.Is("z/b") || c.V6 && c.To.Is("node-2")
		}},

	{"a port name is the number of the pod that is asked", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: web}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.TCP(c.To.Web()) }},
	{"a port name of UDP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: names, protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.UDP(c.To.Web()) }},
	{"a port name in another protocol is no name", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: web, protocol: UDP}, {port: gopher}]}]}`},
		func(c Cell) bool { return !c.To.In("x") }},
	{"a port name of egress is the peer's number", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: web}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.In("w") && c.TCP(c.To.Web()) }},
	{"a port name of egress without peers needs a pod", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.IsPod() && c.TCP(c.To.Web()) }},
	{"a port name at an ipBlock", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $pods-2.4}}], ports: [{port: web}]}]}`},
		func(c Cell) bool {
			return !c.From.In("x") || !c.V6 && c.To.IsPod() && c.To.Node == 2 && c.TCP(c.To.Web())
		}},
	{"a port without protocol is one of TCP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 81}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.TCP(81) }},
	{"a protocol without port is all of its ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.Protocol == "UDP" }},
	{"a range that ends at a port", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 2, endPort: 80}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.TCP(80) }},
	{"a range that starts at a port", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 65535, protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.UDP(81) }},
	{"a range of both ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 81}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.Protocol == "TCP" }},
	{"a range around neither", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 82, endPort: 90}, {port: 80, protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.SCTP(80) }},
	{"several ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81, protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.TCP(80) || c.UDP(81) }},
	{"ports and peers are an and, rules an or", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: 80}]}, {ports: [{port: 80, protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") && c.TCP(80) || c.UDP(80) }},

	{"policies add up", map[string]string{"x/deny": denyIn, "x/b": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`,
		"x/w": `{podSelector: {matchLabels: {tier: front}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: 80}]}]}`},
		func(c Cell) bool {
			return !c.To.In("x") || c.To.Is("x/a") && (c.From.Is("x/b") || c.From.In("w") && c.TCP(80))
		}},
	{"both ends must agree", map[string]string{"x/out": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`,
		"w/in": `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [x, z]}]}}], ports: [{port: 80}]}]}`},
		func(c Cell) bool {
			return (!c.From.In("x") || c.To.In("w")) && (!c.To.Is("w/b") || c.From.In("x", "z") && c.TCP(80))
		}},
	{"every namespace to itself", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "w/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "z/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x", "w", "z") || c.From.NS == c.To.NS }},
	{"egress to DNS and to nothing else", map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Egress]}`,
		"x/dns": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.IsDNS() }},
	{"a policy in audit mode leaves the others in force", map[string]string{"x/p (audit)": denyBoth, "w/p": denyIn, "x/q": `{podSelector: {matchLabels: {pod: c}}, ingress: [{ports: [{port: 80}]}]}`, "x/r (audit)": `{podSelector: {matchLabels: {pod: c}}, ingress: [{}]}`},
		func(c Cell) bool { return !c.To.In("w") && (!c.To.Is("x/c") || c.TCP(80)) }},

	{"Admin denies what NetworkPolicy allows", map[string]string{"x/all": `{podSelector: {}, ingress: [{}]}`,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.In("w") }},
	{"Admin denies egress", map[string]string{"p": `{tier: Admin, priority: 0, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.In("z") }},
	{"Admin accepts what NetworkPolicy denies", map[string]string{"x/deny": denyIn,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: w}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") && c.TCP(80) }},
	{"Pass goes on to NetworkPolicy", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}`,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("w/b") }},
	{"Pass leaves the tier and its later policies", map[string]string{
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}]}`,
		"q": `{tier: Admin, priority: 20, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") || !c.From.IsPod() }},
	{"the smaller priority number comes first", map[string]string{
		"p": `{tier: Admin, priority: 1000, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"q": `{tier: Admin, priority: 999, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("z") || !c.From.IsPod() }},
	{"equal priorities go by name", map[string]string{
		"q": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") || !c.From.IsPod() }},
	{"the first rule that matches decides", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.Called("a") }},
	{"subjects are pods of namespaces, and no node's", map[string]string{
		"p": `{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {matchExpressions: [{key: env, operator: Exists}]}, podSelector: {matchLabels: {tier: front}}}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.From.Is("x/a", "w/a") || !c.To.IsPod() }},
	{"peers are pods of namespaces, and no node's", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [x, w]}]}, podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.Is("x/a", "x/c", "w/a", "w/c") }},
	{"several peers are an or", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: z}}}, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.In("z") && !c.From.Called("b") }},
	{"networks mean pods and nodes", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{networks: [$pods-2.4, "$node-1.6/128"]}]}]}`},
		func(c Cell) bool {
			return !c.From.In("x") || !(!c.V6 && c.To.IsPod() && c.To.Node == 2) && !(c.V6 && c.To.Is("node-1"))
		}},
	{"nodes are their addresses", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.IsPod() }},
	{"nodes by label", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {matchLabels: {kubernetes.io/hostname: $host-2}}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.Is("node-2") }},
	{"a port name of a cluster policy", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || !c.TCP(c.To.Web()) }},
	{"a port name of a cluster policy for egress", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: names}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.IsPod() || !c.UDP(c.To.Web()) }},
	{"numbers and ranges of ports", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 81}}}, {udp: {destinationPort: {range: {start: 70, end: 80}}}}, {sctp: {destinationPort: {number: 80}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || !c.TCP(81) && !c.UDP(80) && !c.SCTP(80) }},
	{"all of a protocol", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || c.Protocol != "UDP" }},
	{"domain names are not understood and accept nothing", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Accept, to: [{domainNames: [example.com]}]}, {action: Deny, to: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.In("w") }},
	{"Baseline denies pods that no NetworkPolicy isolates", map[string]string{"x/a": `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`,
		"default": `{tier: Baseline, priority: 0, subject: {namespaces: {matchLabels: {env: prod}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x", "w") || c.To.Is("x/a") || !c.From.IsPod() }},
	{"Baseline opens nothing that NetworkPolicy isolates", map[string]string{"x/a": `{podSelector: {matchLabels: {pod: a}}}`,
		"default": `{tier: Baseline, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.Is("x/a") }},
	{"NetworkPolicy of one direction leaves the other to Baseline", map[string]string{"x/in": `{podSelector: {}, ingress: [{}]}`,
		"default": `{tier: Baseline, priority: 0, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.IsPod() }},
	{"Baseline is ordered too", map[string]string{
		"default": `{tier: Baseline, priority: 2, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"earlier": `{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Pass, from: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || c.TCP(80) || c.From.In("z") }},
	{"what Admin passes on may end in Baseline", map[string]string{
		"p":       `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}, {action: Accept, from: [{namespaces: {matchLabels: {team: z}}}]}]}`,
		"default": `{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || c.From.In("z") }},
	{"all tiers together", map[string]string{"x/web": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: web}]}]}`,
		"guard":   `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: z}}}]}, {action: Pass, from: [{namespaces: {matchLabels: {team: x}}}]}]}`,
		"names":   `{tier: Admin, priority: 20, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 80}}}]}]}`,
		"default": `{tier: Baseline, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c Cell) bool {
			switch {
			case !c.To.In("x"):
				return true
			case c.From.In("z"):
				return false
			case c.From.In("w") && c.UDP(80):
				return true
			case c.To.Is("x/a"):
				return c.TCP(80)
			}
			return !c.From.In("w")
		}},
	{"cluster policies in audit mode", map[string]string{
		"p (audit)": `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"q":         `{tier: Admin, priority: 2, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || !c.TCP(80) }},
	{"a cluster policy without rules", map[string]string{"p": `{tier: Admin, priority: 1, subject: {namespaces: {}}}`},
		func(c Cell) bool { return true }},
}

// SCTPCases say more about SCTP, and little about other protocols.
var SCTPCases = []Case{
	{"a port of SCTP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.SCTP(80) }},
	{"all ports of SCTP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.Protocol == "SCTP" }},
	{"a range of SCTP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 65535, protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.SCTP(81) }},
	{"ports of the other protocols are none of SCTP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81, protocol: UDP}, {protocol: UDP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.TCP(80) || c.Protocol == "UDP" }},
	{"a port name of SCTP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: signal, protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.SCTP(c.To.Web()) }},
	{"a port name of SCTP without its protocol is no name", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: signal}]}]}`},
		func(c Cell) bool { return !c.To.In("x") }},
	{"a port name of SCTP is the peer's number", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: signal, protocol: SCTP}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.In("w") && c.SCTP(c.To.Web()) }},
	{"SCTP to an ipBlock", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: "$pods-2.6", except: ["$z/b.6/128"]}}, {ipBlock: {cidr: $node-2.4/32}}], ports: [{port: 81, protocol: SCTP}]}]}`},
		func(c Cell) bool {
			return !c.From.In("x") || c.SCTP(81) && (c.V6 && c.To.IsPod() && c.To.Node == 2 && !c.To.Is("z/b") || !c.V6 && c.To.Is("node-2"))
		}},
	{"both ends must agree about SCTP", map[string]string{"x/out": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80, endPort: 81, protocol: SCTP}]}]}`,
		"w/in": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {tier: back}}}], ports: [{port: 80, protocol: SCTP}]}]}`},
		func(c Cell) bool {
			return (!c.From.In("x") || c.SCTP(80) || c.SCTP(81)) && (!c.To.In("w") || c.From.Called("b") && c.SCTP(80))
		}},
	{"Admin denies a port of SCTP", map[string]string{"x/all": `{podSelector: {}, ingress: [{}]}`,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}], protocols: [{sctp: {destinationPort: {number: 80}}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.In("w") || !c.SCTP(80) }},
	{"Admin accepts all of SCTP", map[string]string{"x/deny": denyIn,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: w}}}], protocols: [{sctp: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.In("w") && c.Protocol == "SCTP" }},
	{"Admin denies a range of SCTP to nodes", map[string]string{
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {}}], protocols: [{sctp: {destinationPort: {range: {start: 81, end: 90}}}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || c.To.IsPod() || !c.SCTP(81) }},
	{"a port name of a cluster policy is one of SCTP too", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: signal}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || !c.From.IsPod() || !c.SCTP(c.To.Web()) }},
	{"a port name of a cluster policy is the peer's number of SCTP", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: signal}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.IsPod() || !c.SCTP(c.To.Web()) }},
	{"Admin passes SCTP on", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80, protocol: SCTP}]}]}`,
		"p": `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {}}], protocols: [{sctp: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}`,
		"q": `{tier: Admin, priority: 2, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{sctp: {}}]}]}`},
		func(c Cell) bool { return !c.To.In("x") || c.From.Is("x/b") && c.SCTP(80) }},
	{"Baseline denies SCTP", map[string]string{"x/a": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81, protocol: SCTP}]}]}`,
		"default": `{tier: Baseline, priority: 0, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{sctp: {destinationPort: {range: {start: 1, end: 80}}}}]}]}`},
		func(c Cell) bool {
			if c.To.Is("x/a") {
				return c.SCTP(81)
			}
			return !c.To.In("x") || !c.From.IsPod() || !c.SCTP(80)
		}},
	{"SCTP in audit mode", map[string]string{"x/p (audit)": `{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}`,
		"q (audit)": `{tier: Admin, priority: 2, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{sctp: {}}]}]}`,
		"r":         `{tier: Admin, priority: 3, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: w}}}], protocols: [{sctp: {destinationPort: {number: 81}}}]}]}`},
		func(c Cell) bool { return !c.From.In("x") || !c.To.In("w") || !c.SCTP(81) }},
}
