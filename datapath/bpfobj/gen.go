// SPDX-License-Identifier: Apache-2.0

package bpfobj

// clang 19 and llvm-strip 19 are pinned: verifier costs recorded in the tree depend on the compiler.

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem layout -type addr -type endpoint -type endpoint_name -type address -type state -type cidr_key -type row -type block -type set -type peer_key -type port_span -type port_node -type rule -type rule_count -type rule_slot -type metric -type ct_key -type ct_side -type ct_entry -type frag_key -type frag_ports -type service_key -type service -type backend_key -type backend -type affinity_key -type affinity -type origin_key -type origin Skep ../../bpf/layout.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem pod -no-global-types Pod ../../bpf/tc_pod.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem host -no-global-types Host ../../bpf/tc_host.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem sock -no-global-types Sock ../../bpf/cgroup_sock.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem expire -no-global-types Expire ../../bpf/ct_expire.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem write -no-global-types Write ../../bpf/write.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem check -no-global-types Check ../../bpf/tc_check.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpfobj -output-stem bench -no-global-types Bench ../../bpf/bench.c -- -O2 -g -mcpu=v3 -Wall -Werror -I../../bpf -I../../bpf/include
