// SPDX-License-Identifier: Apache-2.0

// Probe is the program inside the pods of the end-to-end tests and benchmarks: a server that says who it is, and
// clients that report what they saw as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
)

// commands maps the first argument to what it runs. Each returns a value to be printed as JSON.
var commands = map[string]func(args []string) (any, error){
	"serve":   serve,
	"get":     get,
	"first":   first,
	"watch":   watch,
	"stream":  stream,
	"latency": latency,
	"connect": connect,
	"lookup":  lookup,
	"names":   names,
	"udp":     udp,
	"raw":     raw,
	"sniff":   sniff,
	"answer":  answer,
	"reach":   reach,
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 || commands[args[0]] == nil {
		names := make([]string, 0, len(commands))
		for name := range commands {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(os.Stderr, "usage: probe COMMAND, one of %v\n", names)
		return 2
	}
	result, err := commands[args[0]](args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "probe %s: %v\n", args[0], err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
