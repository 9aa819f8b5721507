package srs

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/conf"
)

// addresses converts the values of listen, ports or host:port, to addresses for
// net.Listen.
func addresses(args []string) []string {
	var out []string
	for _, a := range args {
		if !strings.Contains(a, ":") {
			a = net.JoinHostPort("", a)
		}
		out = append(out, a)
	}
	return out
}

// localAddresses is addresses with the default host 127.0.0.1.
func localAddresses(args []string) []string {
	out := addresses(args)
	for i, a := range out {
		if port, ok := strings.CutPrefix(a, ":"); ok {
			out[i] = net.JoinHostPort("127.0.0.1", port)
		}
	}
	return out
}

func on(d *conf.Directive) bool { return d.Args[0] == "on" }

// number returns a value that conf.Check has accepted as a number.
func number(d *conf.Directive) int { return integer(d.Args[0]) }

func integer(arg string) int {
	n, _ := strconv.Atoi(arg)
	return n
}

func milliseconds(d *conf.Directive) time.Duration {
	return orNone(time.Duration(number(d)) * time.Millisecond)
}

// orNone returns d, or if d is 0 a negative value, which means none in a Config.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
