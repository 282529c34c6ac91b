// SPDX-License-Identifier: Apache-2.0

// Package check asks the programs about policy without sending a packet.
package check

import (
	"fmt"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
)

// etherLen is what precedes a question in the made-up frame, answerLen more than an answer is long.
const (
	etherLen  = 14
	answerLen = 256
)

// Ask runs the check program once for each question.
func Ask(program *ebpf.Program, questions []datapath.Question) ([]datapath.Answer, error) {
	answers := make([]datapath.Answer, 0, len(questions))
	room := make([]byte, answerLen)
	for _, q := range questions {
		question, err := bpfmap.EncodeQuestion(q)
		if err != nil {
			return nil, fmt.Errorf("encode a question: %w", err)
		}
		run := ebpf.RunOptions{Data: append(make([]byte, etherLen), question...), DataOut: room}
		if _, err := program.Run(&run); err != nil {
			return nil, fmt.Errorf("run the check program: %w", err)
		}
		answer, err := bpfmap.DecodeAnswer(run.DataOut[min(etherLen, len(run.DataOut)):])
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}
