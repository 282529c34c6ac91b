// SPDX-License-Identifier: Apache-2.0

// Package policy compares what the datapath does with what NetworkPolicy means.
//
// Two evaluators judge the same cases: nodeagent/policymodel, which says what the API text means, and the real programs of
// bpf/ run by BPF_PROG_TEST_RUN on maps that nodeagent/intent and datapath/compile filled. They must never differ, neither in
// the verdict nor in the policy that is named for it.
//
//	TestTruthTables        readable policies with their expected verdicts
//	TestRandomWorlds       random policies and packets: -cases N -seed S for a longer run or to repeat one
//	TestRandomSequences    packets, replies, policy changes and addresses that change hands
//	TestRealPodsObeyPolicies  namespaces, attached programs and sockets of one node together
//	TestABroken…           with -mutate: each mutant of the compiler and translator must be noticed by the two above
package policy
