// SPDX-License-Identifier: Apache-2.0

// Bench measures a server and a local cluster the way a user meets them and prints each figure beside its reference, taken in the same
// run on the same machine. Absolute numbers on shared machines mean little; the ratios are what to compare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	if arguments := os.Getenv(bareVariable); arguments != "" {
		fmt.Fprintln(os.Stderr, serveBare(arguments))
		return 1
	}
	options := options{}
	flag.StringVar(&options.skep, "skep", "bin/skep", "the binary to measure")
	flag.StringVar(&options.name, "name", "skep-bench", "name of the cluster that is made and removed")
	flag.IntVar(&options.pods, "pods", 30, "pods to create one after another")
	flag.IntVar(&options.rounds, "rounds", 5, "pairs of Service and direct runs")
	flag.StringVar(&options.only, "only", "", "run only this part: api or scheduler, or after the start memory, pods, network or policy; none for the start alone")
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

// part is some figures that are taken together.
type part struct {
	name string
	run  func(context.Context) error
}

// measure runs every part in order, first those that need a server and no nodes.
func measure(ctx context.Context, o options) error {
	var err error
	if o.skep, err = filepath.Abs(o.skep); err != nil {
		return err
	}
	nodeless := []part{{"api", o.benchAPI}, {"scheduler", o.benchScheduler}}
	failed := o.runParts(ctx, nodeless)
	if slices.ContainsFunc(nodeless, func(p part) bool { return p.name == o.only }) {
		return failed
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
	return errors.Join(failed, o.runParts(ctx, []part{
		{"memory", c.benchMemory}, {"pods", c.benchPods}, {"network", c.benchNetwork}, {"policy", c.benchPolicy},
	}))
}

// runParts runs the parts that are asked for. One that fails is reported and the others still run.
func (o options) runParts(ctx context.Context, parts []part) error {
	var failed error
	for _, p := range parts {
		if o.only != "" && o.only != p.name {
			continue
		}
		if err := p.run(ctx); err != nil {
			err = fmt.Errorf("%s: %w", p.name, err)
			fmt.Println(err)
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// row prints one figure.
func row(what, format string, values ...any) {
	fmt.Printf("%-46s %s\n", what, fmt.Sprintf(format, values...))
}
