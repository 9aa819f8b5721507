//go:build linux

// Command bench measures the cost of fan-out. It runs whole servers over loopback: this
// library, Debian's nginx-rtmp, and a relay of raw writes as the limit.
//
// The server under test runs in a process of its own, alone on one CPU. The publishers,
// destinations and players run in this process on the other CPUs. CPU time is what the
// kernel accounts for all threads of the server. Every frame carries its number, its
// time and a CRC, so that every receiver checks order, loss, corruption and latency.
//
//	go run ./internal/bench -list
//	go run ./internal/bench -scenario play-500,forward-50 -rounds 5
//	go run ./internal/bench -soak 1h
//
// It needs Linux 5.11 and two CPUs. The nginx rows need the packages nginx and
// libnginx-mod-rtmp. It prints its tables in Markdown on standard output and its
// progress on standard error. Absolute figures differ between machines and between
// hours: compare the ratios within one run.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Each server under test ends with the thread that started it and inherits its CPU, so
// main keeps its thread.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case argServe:
			return serveMain(args[1:])
		case argLimit:
			return limitMain(args[1:])
		}
	}
	b := bench{out: os.Stdout, log: os.Stderr}
	chosen, err := b.flags(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.ctx = ctx
	if b.soak > 0 {
		return b.runSoak()
	}
	if chosen == nil {
		return nil
	}
	if b.cpus, err = placeLoad(); err != nil {
		return err
	}
	if err := raiseFileLimit(1 << 16); err != nil {
		return err
	}
	// More than one, so that the goroutine that waits for sockets does not block
	// others.
	runtime.GOMAXPROCS(max(4, len(b.cpus.load)))

	dir, err := os.MkdirTemp("", "forward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.cert, err = newCertificate(dir); err != nil {
		return err
	}
	b.printMachine(args)
	for _, sc := range chosen {
		servers, err := b.serversFor(sc)
		if err != nil {
			return err
		}
		if err := sc.run(&b, servers); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	printLegend(b.out)
	return nil
}

// flags parses the command line and returns the scenarios to run. It returns none if
// the user only asked for the list.
func (b *bench) flags(args []string) ([]scenario, error) {
	all := scenarios()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("scenario", "play-500,forward-50,forward-max,many-streams", "scenarios to run, or \"all\"")
	servers := flags.String("servers", "", "servers to measure: nginx-rtmp, nginx-rtmp-64k, forward[-wN][-tls][-flv], limit[-wN]\n(N: the merge window in ms); default: each scenario's own list")
	sizes := flags.String("sizes", "", "sizes of the growth scenarios; default: each scenario's own list")
	list := flags.Bool("list", false, "list the scenarios and exit")
	flags.IntVar(&b.rounds, "rounds", 3, "rounds over all servers; the tables show medians")
	seconds := flags.Float64("seconds", 10, "length of a measurement")
	warmup := flags.Float64("warmup", 2, "warm-up: time between the last receiver's first frame and the measurement")
	flags.IntVar(&b.chunkSize, "publisher-chunk", 4096, "chunk size of the publishers")
	flags.IntVar(&b.crc, "crc", 0, fmt.Sprintf("check the CRC of one frame in n (default 1, forward-max %d)", flatCRC))
	flags.DurationVar(&b.soak, "soak", 0, "instead of measuring, run publishers, players and destinations that come and go,\nwith faults, for this long; exit with status 1 on an error or a leak")
	flags.Uint64Var(&b.seed, "seed", 1, "seed of -soak's faults")
	flags.IntVar(&b.maxPlayers, "max-players", 12000, "most players of players-until-it-breaks")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case b.rounds < 1 || *seconds <= 0 || *warmup < 0 || b.chunkSize < 128 || b.crc < 0 || b.maxPlayers < 1 || b.soak < 0:
		return nil, errors.New("a flag is out of range")
	}
	b.duration = time.Duration(*seconds * float64(time.Second))
	b.warmup = time.Duration(*warmup * float64(time.Second))
	if *servers != "" {
		b.servers = strings.Split(*servers, ",")
	}
	if *sizes != "" {
		for s := range strings.SplitSeq(*sizes, ",") {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("size %q: expected a number above 0", s)
			}
			b.sizes = append(b.sizes, n)
		}
	}
	if *list {
		for _, sc := range all {
			fmt.Printf("%-24s %s\n%24s %s\n", sc.name, sc.about, "", strings.Join(sc.servers, ", "))
		}
		return nil, nil
	}
	if *names == "all" {
		return all, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(*names, ",") {
		i := slices.IndexFunc(all, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown scenario %q; -list lists them", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// printMachine describes the machine and the command that repeats the run.
func (b *bench) printMachine(args []string) {
	w := b.out
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := bytes.Cut(info, []byte("model name\t: ")); ok {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			model = string(line)
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	congestion, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	fmt.Fprintf(w, "%s, Linux %s, TCP %s, %s, %s; server on CPU %d, load on %v.\n",
		model, bytes.TrimSpace(kernel), bytes.TrimSpace(congestion), runtime.Version(), nginxVersion(), b.cpus.server, b.cpus.load)
	if slices.Contains(b.cpus.load, b.cpus.server) {
		fmt.Fprintln(w, "The server and the load SHARE a CPU: the figures mean little.")
	}
	fmt.Fprintf(w, "Rounds of %v after %v of warm-up, servers interleaved, medians; publishers send chunks of %d bytes.\n",
		b.duration, b.warmup, b.chunkSize)
	fmt.Fprintf(w, "Again: `go run ./internal/bench %s`\n\n", strings.Join(args, " "))
}

func nginxVersion() string {
	out, err := exec.Command(nginxPath, "-v").CombinedOutput()
	if err != nil {
		return "no nginx"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "nginx version: ")
}

func printLegend(w io.Writer) {
	fmt.Fprint(w, `MB/CPU-s: megabytes received by all receivers per second of the server's CPU time (range in brackets); ×: its ratio to that
of another server in the same round, median of the rounds. µs/f/r: the server's CPU time per frame and receiver. Latency: from
the first byte of a frame at the publisher to its last byte at the receiver. lost: frames skipped; tail: frames missing 3 s
after the publishers stopped. bad gaps: gaps in video that resume in mid-GOP. KB per receiver: memory above that with the
stream and no player, or with one destination; above that of the idle server in forward-max, many-streams and for the limit.
load: CPU of the publishers and receivers; foreign: CPU of everything else, counted roughly in clock ticks; both in % of a
core.
`)
}
