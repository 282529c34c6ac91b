// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"encoding/binary"
	"fmt"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
)

// EncodeQuestion is a question as the check program reads it, with room for the answer.
func EncodeQuestion(q datapath.Question) ([]byte, error) {
	return binary.Append(nil, binary.NativeEndian, bpfobj.SkepCheck{
		Src: AddrOf(q.Src), Dst: AddrOf(q.Dst), Service: uint32(q.Protocol)<<16 | uint32(q.Port),
	})
}

// DecodeAnswer reads what the check program wrote.
func DecodeAnswer(b []byte) (datapath.Answer, error) {
	var c bpfobj.SkepCheck
	if _, err := binary.Decode(b, binary.NativeEndian, &c); err != nil {
		return datapath.Answer{}, fmt.Errorf("decode an answer: %w", err)
	}
	has := func(flag bpfobj.SkepCheckFlag) bool { return bpfobj.SkepCheckFlag(c.Flags)&flag != 0 }
	return datapath.Answer{
		Generation: c.Generation,
		Lost:       has(bpfobj.SkepCheckFlagCHECK_NO_ENDPOINT),
		Egress:     verdict(has(bpfobj.SkepCheckFlagCHECK_EGRESS), c.Egress),
		Ingress:    verdict(has(bpfobj.SkepCheckFlagCHECK_INGRESS), c.Ingress),
	}, nil
}

// verdict is one side. A pod that is not judged is let through in both views.
func verdict(judged bool, side bpfobj.SkepCheckSide) datapath.Verdict {
	reason := bpfobj.SkepReason(side.Reason)
	v := datapath.Verdict{
		Judged: judged, Rule: datapath.RuleID(side.Rule),
		WouldAllow: side.WouldReason == uint32(bpfobj.SkepReasonSKEP_REASON_NONE), WouldRule: datapath.RuleID(side.WouldRule),
	}
	switch reason {
	case bpfobj.SkepReasonSKEP_REASON_NONE:
		v.Allowed = true
		return v
	case bpfobj.SkepReasonSKEP_REASON_POLICY_EGRESS, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS:
	default:
		v.Failed, v.WouldAllow = true, false
	}
	v.Reason = ReasonName(reason)
	return v
}
