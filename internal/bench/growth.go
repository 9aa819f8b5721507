//go:build linux

package main

import "fmt"

// hundred is the size that the others of a growth are compared with.
const hundred = 100

// byReceivers and byStreams set the size of a load.
func byReceivers(f fan, n int) fan { f.receivers = n; return f }
func byStreams(f fan, n int) fan   { f.streams = n; return f }

// growthScenario measures a load at several sizes. It prints a table for each server,
// which compares the cost at each size with that at 100, or at the first size.
func growthScenario(name, about string, f fan, sizes []int, grow func(fan, int) fan, servers ...string) scenario {
	return scenario{name, about, servers, func(b *bench, servers []server) error {
		for _, s := range servers {
			if err := b.growth(name, f, sizes, grow, s); err != nil {
				return err
			}
		}
		return nil
	}}
}

func (b *bench) growth(name string, f fan, sizes []int, grow func(fan, int) fan, s server) error {
	if len(b.sizes) > 0 {
		sizes = b.sizes
	}
	row := func(n int) string { return fmt.Sprintf("%s, %d", s.name, n) }
	f.name = name + ", " + s.name
	f.ratios = []string{row(sizes[0])}
	t := fanTable{load: f, crcEvery: b.crcEvery(f)}
	base := map[string]float64{}
	var steps []server // s for each size
	size := map[string]int{}
	for _, n := range sizes {
		step := s
		step.name = row(n)
		size[step.name] = n
		steps = append(steps, step)
		if n == hundred {
			t.load.ratios = []string{step.name}
		}
	}
	failed, err := b.interleave(name, steps, func(step server) error {
		return b.addFan(&t, step.name, s, grow(f, size[step.name]), base)
	})
	if err != nil {
		return err
	}
	t.print(b.out, failed)
	return nil
}
