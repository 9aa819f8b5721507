package forward

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The number of refused addresses in memory is bounded.
func TestRefusedAddressesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }
		for i := range maxRefusedAddrs {
			r.note(addr(i), time.Now(), -1)
			time.Sleep(time.Second)
		}
		r.note(addr(0), time.Now(), -1) // no longer the oldest
		require.Len(t, r.byAddr, maxRefusedAddrs)
		r.note(addr(maxRefusedAddrs), time.Now(), -1)
		r.note(netip.Addr{}, time.Now(), -1)
		require.Len(t, r.byAddr, maxRefusedAddrs)
		require.EqualValues(t, 2, r.byAddr[addr(0)].count)
		require.NotContains(t, r.byAddr, addr(1))
		require.EqualValues(t, maxRefusedAddrs+3, r.total)
	})
}

func TestClientAddr(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1":                        "192.0.2.1",
		"[::ffff:192.0.2.1]:1":               "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1":           "2001:db8:1:2::",
		"[fe80::1%eth0]:1":                   "fe80::",
		"pipe":                               "invalid IP",
		"":                                   "invalid IP",
		"[2001:db8:1:2:ffff:ffff::1%1]:1935": "2001:db8:1:2::",
	} {
		require.Equal(t, want, clientAddr(textAddr(addr)).String(), addr)
	}
}

// A shut-out does not end early because its address is refused on a connection that was open
// before.
func TestShutOutIsNotCutShort(t *testing.T) {
	var r refusals
	addr, began := netip.MustParseAddr("192.0.2.1"), time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	for _, step := range []struct {
		at   int
		shut bool // by this refusal
	}{{0, false}, {59, true}, {61, false}, {62, false}} {
		require.Equal(t, step.shut, r.note(addr, at(step.at), 2), "%d s", step.at)
	}
	require.True(t, r.shut(addr, at(121)))
	require.False(t, r.shut(addr, at(122)))
	require.False(t, r.note(addr, at(122), 2))
	require.False(t, r.shut(addr, at(122)))
	require.True(t, r.note(addr, at(123), 2))
	require.True(t, r.shut(addr, at(123)))
}

// textAddr is an address of a host's own type.
type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }
