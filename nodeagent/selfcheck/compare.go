// SPDX-License-Identifier: Apache-2.0

package selfcheck

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/policymodel"
)

// difference compares what the programs answered with what the policies say, and returns in words in what they differ. It is empty when
// they agree, and when nobody can tell.
func (v *view) difference(q datapath.Question, a datapath.Answer) string {
	w, ok := v.world(q.Src, q.Dst)
	if !ok {
		return ""
	}
	conn := policymodel.Conn{Src: q.Src, Dst: q.Dst, Protocol: q.Protocol.String(), Port: int(q.Port)}
	verdict, would := policymodel.Judge(w, conn), policymodel.Would(w, conn)
	var out []string
	for _, side := range []struct {
		name        string
		addr        netip.Addr
		got         datapath.Verdict
		want, would policymodel.Side
	}{
		{"egress", q.Src, a.Egress, verdict.Egress, would.Egress},
		{"ingress", q.Dst, a.Ingress, verdict.Ingress, would.Ingress},
	} {
		if v.podNamed(side.addr, side.want.Pod) == nil {
			continue // judged elsewhere, or by nobody
		}
		if text := compareSide(side.got, side.want.Allowed, side.would.Allowed); text != "" {
			out = append(out, fmt.Sprintf("%s of pod %s: %s", side.name, side.want.Pod, text))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return describe(q) + ": " + strings.Join(out, "; ")
}

func compareSide(got datapath.Verdict, allowed, would bool) string {
	switch {
	case !got.Judged:
		return "not judged"
	case got.Failed:
		return "dropped as " + got.Reason
	case got.Allowed != allowed:
		return fmt.Sprintf("policy says %s, the node has it %s", word(allowed), word(got.Allowed))
	case got.WouldAllow != would:
		return fmt.Sprintf("with the policies in audit mode policy would say %s, the node has it %s", word(would), word(got.WouldAllow))
	}
	return ""
}

func word(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func describe(q datapath.Question) string {
	if q.Protocol != datapath.TCP && q.Protocol != datapath.UDP && q.Protocol != datapath.SCTP {
		return fmt.Sprintf("%s from %s to %s", q.Protocol, q.Src, q.Dst)
	}
	return fmt.Sprintf("%s from %s to %s", q.Protocol, q.Src, netip.AddrPortFrom(q.Dst, q.Port))
}

// confirmations is how many times in a row, and each time with the API and the node at rest, a question must be answered wrongly to
// count: a change on its way looks like a difference too.
const confirmations = 5

// maxSuspects bounds how many questions are asked again.
const maxSuspects = 16

// suspects are questions that were answered wrongly.
type suspects map[datapath.Question]suspicion

// suspicion is how often in a row a question was answered wrongly, and how the last time.
type suspicion struct {
	count int
	text  string
}

// weigh takes the differences of a round in which questions were asked, and returns those that have become certain by it. At rest says
// that nothing changed while the round lasted.
func (s suspects) weigh(asked []datapath.Question, differences map[datapath.Question]string, atRest bool) []string {
	var fresh []string
	for _, q := range asked {
		text, differs := differences[q]
		before, suspected := s[q]
		switch {
		case !differs:
			delete(s, q)
		case !suspected && len(s) >= maxSuspects:
		case !atRest:
			s[q] = suspicion{before.count, text}
		default:
			s[q] = suspicion{before.count + 1, text}
			if before.count+1 == confirmations {
				fresh = append(fresh, text)
			}
		}
	}
	return fresh
}

// certain lists the differences that count.
func (s suspects) certain() []string {
	var out []string
	for _, suspect := range s {
		if suspect.count >= confirmations {
			out = append(out, suspect.text)
		}
	}
	slices.Sort(out)
	return out
}
