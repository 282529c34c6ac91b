// SPDX-License-Identifier: Apache-2.0

// Bench measures a local cluster the way a user meets it and prints each figure beside its reference, taken in the same
// run on the same machine. Absolute numbers on shared machines mean little; the ratios are what to compare.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	options := options{}
	flag.StringVar(&options.skep, "skep", "bin/skep", "the binary to measure")
	flag.StringVar(&options.name, "name", "skep-bench", "name of the cluster that is made and removed")
	flag.IntVar(&options.pods, "pods", 30, "pods to create one after another")
	flag.IntVar(&options.rounds, "rounds", 5, "pairs of Service and direct runs")
	flag.StringVar(&options.only, "only", "", "run only this part after the start (memory, pods, network or policy; none for the start alone)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

type options struct {
	skep, name, only string
	pods, rounds     int
}

// measure runs every part in order; a part that fails is reported and the others still run.
func measure(ctx context.Context, o options) error {
	var err error
	if o.skep, err = filepath.Abs(o.skep); err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "skep-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	c := &cluster{options: o, home: home}
	defer c.down()
	if err := c.benchStart(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := c.loadProbe(ctx); err != nil {
		return err
	}
	var failed error
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"memory", c.benchMemory}, {"pods", c.benchPods}, {"network", c.benchNetwork}, {"policy", c.benchPolicy},
	} {
		if o.only != "" && o.only != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			failed = fmt.Errorf("%s: %w", part.name, err)
			fmt.Println(failed)
		}
	}
	return failed
}

// row prints one figure.
func row(what, format string, values ...any) {
	fmt.Printf("%-46s %s\n", what, fmt.Sprintf(format, values...))
}
