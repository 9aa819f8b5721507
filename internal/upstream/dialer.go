package upstream

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/sys"
)

const (
	// stagger is the time after which the next address is also tried (RFC 8305, 5,
	// Connection Attempt Delay).
	stagger = 300 * time.Millisecond
	// maxAddrs bounds the addresses of a name that are tried.
	maxAddrs = 32
)

// Dialer connects to the first of a name's addresses that answers (RFC 8305): it begins to
// try an address while those before it are still being tried. A net.Dialer does so only
// for the two families; within one family it tries the second address after the first has
// used up its share of the time.
type Dialer struct {
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // to an address
}

// NewDialer returns a Dialer that uses the system's resolver. control, if not nil, is
// net.Dialer.Control.
func NewDialer(control func(network, address string, c syscall.RawConn) error) Dialer {
	return Dialer{
		Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return LookupAddrs(ctx, net.DefaultResolver, host)
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := (&net.Dialer{Control: control}).DialContext(ctx, network, address)
			if tcp, ok := nc.(*net.TCPConn); ok {
				return sys.Own(tcp), err
			}
			return nc, err
		},
	}
}

// LookupAddrs returns the addresses of a name in the order in which they are to be
// tried, with their zones.
func LookupAddrs(ctx context.Context, r *net.Resolver, host string) ([]netip.Addr, error) {
	found, err := r.LookupIPAddr(ctx, host)
	addrs := make([]netip.Addr, 0, len(found))
	for _, f := range found {
		if a, ok := netip.AddrFromSlice(f.IP); ok {
			addrs = append(addrs, a.Unmap().WithZone(f.Zone))
		}
	}
	return addrs, err
}

// DialContext is like net.Dialer.DialContext, for TCP and a numeric port. If all addresses
// fail, it returns the error of the first.
func (d Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs, err := d.Lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	traceOf(ctx).resolved(host, addrs, err)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs = interleave(addrs)
	addrs = addrs[:min(len(addrs), maxAddrs)]
	return d.race(ctx, network, port, addrs)
}

// race tries the addresses and returns the first connection, or an error. It returns after
// all other attempts have ended.
func (d Dialer) race(ctx context.Context, network, port string, addrs []netip.Addr) (net.Conn, error) {
	type result struct {
		n   int
		nc  net.Conn
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	var won net.Conn
	errs := make([]error, len(addrs))
	for begun, ended := 0, 0; begun < len(addrs) && ctx.Err() == nil || ended < begun; {
		select {
		case <-next.C:
			if begun == len(addrs) || ctx.Err() != nil {
				continue
			}
			n := begun
			begun++
			go func() {
				nc, err := d.Dial(ctx, network, net.JoinHostPort(addrs[n].String(), port))
				results <- result{n, nc, err}
			}()
			next.Reset(stagger)
		case res := <-results:
			ended++
			switch {
			case res.err != nil:
				errs[res.n] = res.err
				next.Reset(0) // try the next address immediately
			case won != nil:
				res.nc.Close()
			default:
				won = res.nc
				cancel()
			}
		}
	}
	if won != nil {
		return won, nil
	}
	if errs[0] == nil {
		errs[0] = &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	return nil, errs[0]
}

// interleave alternates the address families, beginning with that of the first address
// (RFC 8305, 4). It keeps the order within a family.
func interleave(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		family := 0
		if a.Is4() != addrs[0].Is4() {
			family = 1
		}
		families[family] = append(families[family], a)
	}
	mixed := make([]netip.Addr, 0, len(addrs))
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				mixed = append(mixed, f[i])
			}
		}
	}
	return mixed
}
