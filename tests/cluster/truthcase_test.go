// SPDX-License-Identifier: Apache-2.0

package cluster

const (
	denyBoth = `{podSelector: {}, policyTypes: [Ingress, Egress]}`
	denyIn   = `{podSelector: {}}`
	subjectX = `subject: {namespaces: {matchLabels: {team: x}}}`
)

// Neighbours must open different cells, or nobody could tell when the second is in force. "!c.to.in("x") || …" reads: whoever is not in
// x is open; the pods of x are open to ….
var truthCases = []truthCase{
	{"without policies everything is open", nil,
		func(c cell) bool { return true }},
	{"default deny of both directions", map[string]string{"x/p": denyBoth},
		func(c cell) bool { return !c.from.in("x") && !c.to.in("x") }},
	{"without policyTypes and rules ingress is isolated", map[string]string{"x/p": denyIn},
		func(c cell) bool { return !c.to.in("x") }},
	{"an empty egress does not isolate egress", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: b}}, egress: []}`},
		func(c cell) bool { return !c.to.is("x/b") }},
	{"egress rules without policyTypes isolate both directions", map[string]string{"x/p": `{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") && (!c.from.in("x") || c.to.in("w")) }},
	{"policyTypes Egress alone", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress]}`},
		func(c cell) bool { return !c.from.in("x") }},
	{"ingress rules without the type mean nothing", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || c.to.in("x") }},
	{"egress rules without the type mean nothing", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("x") }},
	{"an empty rule allows everything", map[string]string{"x/deny": denyBoth, "x/all": `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`},
		func(c cell) bool { return !c.from.in("x") && (!c.to.in("x") || c.to.is("x/a")) }},
	{"empty from and ports are everybody and every port", map[string]string{"x/deny": denyIn, "x/all": `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [], ports: []}]}`},
		func(c cell) bool { return !c.to.in("x") || c.to.is("x/b") }},
	{"empty to and ports are everybody and every port", map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Egress]}`, "x/all": `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{to: [], ports: []}]}`},
		func(c cell) bool { return !c.from.in("x") || c.from.is("x/b") }},
	{"an empty ingress opens nothing", map[string]string{"w/p": `{podSelector: {}, ingress: [], policyTypes: [Ingress]}`},
		func(c cell) bool { return !c.to.in("w") }},
	{"a policy that selects nobody", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: q}}, policyTypes: [Ingress, Egress]}`},
		func(c cell) bool { return true }},
	{"a policy of one namespace says nothing about pods of that name in others", map[string]string{"z/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}`},
		func(c cell) bool { return !c.from.is("z/a") && !c.to.is("z/a") }},

	{"a podSelector means the policy's own namespace", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.is("x/b") }},
	{"a namespaceSelector", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") }},
	{"two selectors in one peer are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}, podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.is("w/b") }},
	{"two peers are an or", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") || c.from.is("x/b") }},
	{"an empty podSelector is all of the namespace", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("x") }},
	{"an empty namespaceSelector is every pod and no node", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.isPod() }},
	{"egress to a namespace and pods of it", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: z}}, podSelector: {matchLabels: {tier: back}}}]}]}`},
		func(c cell) bool { return !c.from.is("x/a") || c.to.is("z/b") }},
	{"operator In", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [w, z]}]}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w", "z") }},
	{"operator NotIn holds without the label too", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: env, operator: NotIn, values: [prod]}]}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("z") }},
	{"operator Exists", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.called("a", "b") }},
	{"operator DoesNotExist", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.called("c") }},
	{"labels and expressions are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: a}, matchExpressions: [{key: tier, operator: In, values: [back]}]}}, {podSelector: {matchLabels: {pod: b}, matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.is("x/b") }},
	{"subjects by expressions", map[string]string{"x/p": `{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}`},
		func(c cell) bool { return !c.to.is("x/b", "x/c") }},
	{"pods of the nodes' network are neither subject nor peer", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {tier: front}}}]}], egress: [{to: [{podSelector: {matchLabels: {tier: front}}}]}]}`},
		func(c cell) bool { return !c.from.is("x/a") && !c.to.is("x/a") }},

	{"an ipBlock holds for pods", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: $pods-1.4}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.isPod() && c.from.node == 1 && !c.v6 }},
	{"an ipBlock of IPv6", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "$pods-2.6"}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.isPod() && c.from.node == 2 && c.v6 }},
	{"an ipBlock without some pods", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$x/b.4/32]}}, {ipBlock: {cidr: "::/0", except: ["$w/a.6/128", "$pods-1.6"]}}]}]}`},
		func(c cell) bool {
			return !c.to.in("x") || !c.v6 && !c.from.is("x/b") || c.v6 && !c.from.is("w/a") && (!c.from.isPod() || c.from.node != 1)
		}},
	{"an exception of one block does not bind another", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$pods-1.4]}}, {ipBlock: {cidr: $w/b.4/32}}]}]}`},
		func(c cell) bool {
			return !c.to.in("x") || !c.v6 && (!c.from.isPod() || c.from.node != 1 || c.from.is("w/b"))
		}},
	{"an ipBlock of a node", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: $node-1.4/32}}, {ipBlock: {cidr: "$node-2.6/128"}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.is("node-1") && !c.v6 || c.from.is("node-2") && c.v6 }},
	{"egress to ipBlocks", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $pods-2.4, except: [$z/b.4/32]}}, {ipBlock: {cidr: "$node-2.6/128"}}]}]}`},
		func(c cell) bool {
			return !c.from.in("x") || !c.v6 && c.to.isPod() && c.to.node == 2 && !c.to.is("z/b") || c.v6 && c.to.is("node-2")
		}},

	{"a port name is the number of the pod that is asked", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: web}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.tcp(c.to.web()) }},
	{"a port name of UDP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: names, protocol: UDP}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.udp(c.to.web()) }},
	{"a port name in another protocol is no name", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: web, protocol: UDP}, {port: gopher}]}]}`},
		func(c cell) bool { return !c.to.in("x") }},
	{"a port name of egress is the peer's number", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: web}]}]}`},
		func(c cell) bool { return !c.from.in("x") || c.to.in("w") && c.tcp(c.to.web()) }},
	{"a port name of egress without peers needs a pod", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}`},
		func(c cell) bool { return !c.from.in("x") || c.to.isPod() && c.tcp(c.to.web()) }},
	{"a port name at an ipBlock", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $pods-2.4}}], ports: [{port: web}]}]}`},
		func(c cell) bool {
			return !c.from.in("x") || !c.v6 && c.to.isPod() && c.to.node == 2 && c.tcp(c.to.web())
		}},
	{"a port without protocol is one of TCP", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 81}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.tcp(81) }},
	{"a protocol without port is all of its ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.protocol == "UDP" }},
	{"a range that ends at a port", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 2, endPort: 80}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.tcp(80) }},
	{"a range that starts at a port", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 65535, protocol: UDP}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.udp(81) }},
	{"a range of both ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 81}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.protocol == "TCP" }},
	{"a range around neither", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 82, endPort: 90}, {port: 80, protocol: SCTP}]}]}`},
		func(c cell) bool { return !c.to.in("x") }},
	{"several ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81, protocol: UDP}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.tcp(80) || c.udp(81) }},
	{"ports and peers are an and, rules an or", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: 80}]}, {ports: [{port: 80, protocol: UDP}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") && c.tcp(80) || c.udp(80) }},

	{"policies add up", map[string]string{"x/deny": denyIn, "x/b": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`,
		"x/w": `{podSelector: {matchLabels: {tier: front}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}], ports: [{port: 80}]}]}`},
		func(c cell) bool {
			return !c.to.in("x") || c.to.is("x/a") && (c.from.is("x/b") || c.from.in("w") && c.tcp(80))
		}},
	{"both ends must agree", map[string]string{"x/out": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`,
		"w/in": `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [x, z]}]}}], ports: [{port: 80}]}]}`},
		func(c cell) bool {
			return (!c.from.in("x") || c.to.in("w")) && (!c.to.is("w/b") || c.from.in("x", "z") && c.tcp(80))
		}},
	{"every namespace to itself", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "w/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "z/p": `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x", "w", "z") || c.from.ns == c.to.ns }},
	{"egress to DNS and to nothing else", map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Egress]}`,
		"x/dns": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}`},
		func(c cell) bool { return !c.from.in("x") || c.to.isDNS() }},
	{"a policy in audit mode leaves the others in force", map[string]string{"x/p (audit)": denyBoth, "w/p": denyIn, "x/q": `{podSelector: {matchLabels: {pod: c}}, ingress: [{ports: [{port: 80}]}]}`, "x/r (audit)": `{podSelector: {matchLabels: {pod: c}}, ingress: [{}]}`},
		func(c cell) bool { return !c.to.in("w") && (!c.to.is("x/c") || c.tcp(80)) }},

	{"Admin denies what NetworkPolicy allows", map[string]string{"x/all": `{podSelector: {}, ingress: [{}]}`,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.in("w") }},
	{"Admin denies egress", map[string]string{"p": `{tier: Admin, priority: 0, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || !c.to.in("z") }},
	{"Admin accepts what NetworkPolicy denies", map[string]string{"x/deny": denyIn,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: w}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") && c.tcp(80) }},
	{"Pass goes on to NetworkPolicy", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}`,
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.is("w/b") }},
	{"Pass leaves the tier and its later policies", map[string]string{
		"p": `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}]}`,
		"q": `{tier: Admin, priority: 20, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") || !c.from.isPod() }},
	{"the smaller priority number comes first", map[string]string{
		"p": `{tier: Admin, priority: 1000, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"q": `{tier: Admin, priority: 999, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("z") || !c.from.isPod() }},
	{"equal priorities go by name", map[string]string{
		"q": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || c.from.in("w") || !c.from.isPod() }},
	{"the first rule that matches decides", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.called("a") }},
	{"subjects are pods of namespaces, and no node's", map[string]string{
		"p": `{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {matchExpressions: [{key: env, operator: Exists}]}, podSelector: {matchLabels: {tier: front}}}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.from.is("x/a", "w/a") || !c.to.isPod() }},
	{"peers are pods of namespaces, and no node's", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [x, w]}]}, podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.is("x/a", "x/c", "w/a", "w/c") }},
	{"several peers are an or", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: z}}}, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.in("z") && !c.from.called("b") }},
	{"networks mean pods and nodes", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{networks: [$pods-2.4, "$node-1.6/128"]}]}]}`},
		func(c cell) bool {
			return !c.from.in("x") || !(!c.v6 && c.to.isPod() && c.to.node == 2) && !(c.v6 && c.to.is("node-1"))
		}},
	{"nodes are their addresses", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || c.to.isPod() }},
	{"nodes by label", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {matchLabels: {kubernetes.io/hostname: ` + nodeName(2) + `}}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || !c.to.is("node-2") }},
	{"a port name of a cluster policy", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || !c.tcp(c.to.web()) }},
	{"a port name of a cluster policy for egress", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: names}]}]}`},
		func(c cell) bool { return !c.from.in("x") || !c.to.isPod() || !c.udp(c.to.web()) }},
	{"numbers and ranges of ports", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 81}}}, {udp: {destinationPort: {range: {start: 70, end: 80}}}}, {sctp: {destinationPort: {number: 80}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || !c.tcp(81) && !c.udp(80) }},
	{"all of a protocol", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || c.protocol == "TCP" }},
	{"domain names are not understood and accept nothing", map[string]string{
		"p": `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Accept, to: [{domainNames: [example.com]}]}, {action: Deny, to: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || !c.to.in("w") }},
	{"Baseline denies pods that no NetworkPolicy isolates", map[string]string{"x/a": `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`,
		"default": `{tier: Baseline, priority: 0, subject: {namespaces: {matchLabels: {env: prod}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x", "w") || c.to.is("x/a") || !c.from.isPod() }},
	{"Baseline opens nothing that NetworkPolicy isolates", map[string]string{"x/a": `{podSelector: {matchLabels: {pod: a}}}`,
		"default": `{tier: Baseline, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.is("x/a") }},
	{"NetworkPolicy of one direction leaves the other to Baseline", map[string]string{"x/in": `{podSelector: {}, ingress: [{}]}`,
		"default": `{tier: Baseline, priority: 0, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.from.in("x") || !c.to.isPod() }},
	{"Baseline is ordered too", map[string]string{
		"default": `{tier: Baseline, priority: 2, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"earlier": `{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Pass, from: [{namespaces: {matchLabels: {team: z}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || c.tcp(80) || c.from.in("z") }},
	{"what Admin passes on may end in Baseline", map[string]string{
		"p":       `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: w}}}]}, {action: Accept, from: [{namespaces: {matchLabels: {team: z}}}]}]}`,
		"default": `{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || c.from.in("z") }},
	{"all tiers together", map[string]string{"x/web": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: web}]}]}`,
		"guard":   `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: z}}}]}, {action: Pass, from: [{namespaces: {matchLabels: {team: x}}}]}]}`,
		"names":   `{tier: Admin, priority: 20, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 80}}}]}]}`,
		"default": `{tier: Baseline, priority: 10, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}]}]}`},
		func(c cell) bool {
			switch {
			case !c.to.in("x"):
				return true
			case c.from.in("z"):
				return false
			case c.from.in("w") && c.udp(80):
				return true
			case c.to.is("x/a"):
				return c.tcp(80)
			}
			return !c.from.in("w")
		}},
	{"cluster policies in audit mode", map[string]string{
		"p (audit)": `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"q":         `{tier: Admin, priority: 2, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`},
		func(c cell) bool { return !c.to.in("x") || !c.from.isPod() || !c.tcp(80) }},
	{"a cluster policy without rules", map[string]string{"p": `{tier: Admin, priority: 1, subject: {namespaces: {}}}`},
		func(c cell) bool { return true }},
}
