package rtmp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A second implementation of the digest handshake, written only from its description.
const (
	testPlayerKey = "Genuine Adobe Flash Player 001"
	testServerKey = "Genuine Adobe Flash Media Server 001"
	testKeyTail   = "\xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57" +
		"\x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae"
)

func testHMAC(key string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, []byte(key))
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// testDigestAt returns the offset of the digest in p. schema is 0 or 1.
func testDigestAt(p []byte, schema int) int {
	base := []int{8, 772}[schema]
	sum := 0
	for _, b := range p[base : base+4] {
		sum += int(b)
	}
	return base + 4 + sum%728
}

func testDigest(p []byte, schema int, key string) (have, want []byte) {
	at := testDigestAt(p, schema)
	return p[at : at+32], testHMAC(key, p[:at], p[at+32:])
}

// packet returns a C1 or S1 with recognisable content.
func packet(seed byte, version string) []byte {
	p := make([]byte, 1536)
	for i := range p {
		p[i] = seed + byte(i*7) + byte(i>>8)
	}
	copy(p[4:8], version)
	return p
}

// signed returns a packet with a digest. The sum of offset's bytes determines its place.
func signed(seed byte, version string, schema int, offset, key string) []byte {
	p := packet(seed, version)
	copy(p[[]int{8, 772}[schema]:], offset)
	have, want := testDigest(p, schema, key)
	copy(have, want)
	return p
}

// rw joins a Reader and a Writer.
type rw struct {
	io.Reader
	bytes.Buffer
	writes int
}

func (c *rw) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *rw) Write(p []byte) (int, error) {
	c.writes++
	return c.Buffer.Write(p)
}

var fragmentations = map[string]func(io.Reader) io.Reader{
	"one write":           func(r io.Reader) io.Reader { return r },
	"byte by byte":        iotest.OneByteReader,
	"halves":              iotest.HalfReader,
	"end with last bytes": iotest.DataErrReader,
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestServerHandshake(t *testing.T) {
	const (
		plain = -1
		zero  = "\x00\x00\x00\x00"
		flash = "\x80\x00\x07\x02"
		first = "\x00\x00\x00\x00" // sum 0
		last  = "\xff\xff\xd9\x00" // sum 727
		wraps = "\xff\xff\xda\x00" // sum 728
		most  = "\xff\xff\xff\xff"
	)
	broken := signed(5, flash, 0, last, testPlayerKey)
	broken[1535] ^= 1
	for _, c := range []struct {
		name   string
		c1     []byte
		schema int
	}{
		{"plain", packet(1, zero), plain},
		{"version without digest", packet(2, flash), plain},
		{"digest with version 0", signed(3, zero, 0, last, testPlayerKey), plain},
		{"digest with another key", signed(4, flash, 0, last, testServerKey), plain},
		{"digest of other bytes", broken, plain},
		{"schema 0, first place", signed(6, flash, 0, first, testPlayerKey), 0},
		{"schema 0, last place", signed(7, flash, 0, last, testPlayerKey), 0},
		{"schema 0, sum wraps", signed(8, flash, 0, wraps, testPlayerKey), 0},
		{"schema 0, greatest sum", signed(9, flash, 0, most, testPlayerKey), 0},
		{"schema 1, first place", signed(10, flash, 1, first, testPlayerKey), 1},
		{"schema 1, last place", signed(11, flash, 1, last, testPlayerKey), 1},
		{"schema 1, sum wraps", signed(12, flash, 1, wraps, testPlayerKey), 1},
		{"schema 1, greatest sum", signed(13, flash, 1, most, testPlayerKey), 1},
	} {
		for how, fragment := range fragmentations {
			t.Run(c.name+", "+how, func(t *testing.T) {
				c2 := packet(99, "any!") // no echo of S1
				after := []byte("connect and more")
				conn := &rw{Reader: fragment(bytes.NewReader(concat([]byte{3}, c.c1, c2, after)))}
				require.NoError(t, ServerHandshake(conn))
				require.Equal(t, 1, conn.writes)
				rest, err := io.ReadAll(conn.Reader)
				require.NoError(t, err)
				require.Equal(t, after, rest)

				s := conn.Bytes()
				require.Len(t, s, 1+2*1536)
				require.Equal(t, byte(3), s[0])
				s1, s2 := s[1:1537], s[1537:]
				if c.schema == plain {
					require.Equal(t, []byte(zero), s1[4:8])
					require.Equal(t, c.c1, s2)
					return
				}
				require.NotEqual(t, []byte(zero), s1[4:8])
				have, want := testDigest(s1, c.schema, testServerKey)
				require.Equal(t, want, have, "digest of S1")
				at := testDigestAt(c.c1, c.schema)
				key := testHMAC(testServerKey+testKeyTail, c.c1[at:at+32])
				require.Equal(t, testHMAC(string(key), s2[:1504]), s2[1504:], "digest of S2")
			})
		}
	}
}

func TestServerHandshakeRefusesOtherVersions(t *testing.T) {
	for _, v := range []byte{0, 1, 2, 4, 6, 8, 9, 31, 32, 'G', 0x16, 255} {
		conn := &rw{Reader: bytes.NewReader(concat([]byte{v}, packet(1, ""), packet(2, "")))}
		require.ErrorIs(t, ServerHandshake(conn), ErrVersion, "%d", v)
		require.Zero(t, conn.Len(), "%d", v)
	}
}

func TestServerHandshakeCut(t *testing.T) {
	all := concat([]byte{3}, packet(1, ""), packet(2, ""))
	for _, n := range []int{0, 1, 2, 1536, 1537, 1538, 3072} {
		conn := &rw{Reader: bytes.NewReader(all[:n])}
		err := ServerHandshake(conn)
		require.Error(t, err, n)
		require.True(t, isEOF(err), "%d: %v", n, err)
		if n < 1537 {
			require.Zero(t, conn.Len(), "%d: answered before C1 was in", n)
		} else {
			require.Equal(t, 3073, conn.Len(), "%d: S2 must not wait for C2", n)
		}
	}
}

func TestServerHandshakeWriteError(t *testing.T) {
	err := ServerHandshake(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(concat([]byte{3}, packet(1, ""))), failingWriter{}})
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClientHandshake(t *testing.T) {
	const fms = "\x05\x00\x01\x01"
	for _, c := range []struct {
		name   string
		digest bool
		s1     []byte
		schema int // of S1's digest; -1 if C2 must be an echo
	}{
		{"plain", false, packet(1, "\x00\x00\x00\x00"), -1},
		{"plain, server has a version", false, packet(2, fms), -1},
		{"plain, server has a digest", false, signed(3, fms, 0, "abcd", testServerKey), -1},
		{"digest, server is plain", true, packet(4, "\x00\x00\x00\x00"), -1},
		{"digest, server has a version", true, packet(5, fms), -1},
		{"digest, the server's is a client's", true, signed(6, fms, 0, "abcd", testPlayerKey), -1},
		{"digest in schema 0", true, signed(7, fms, 0, "abcd", testServerKey), 0},
		{"digest in schema 1", true, signed(8, fms, 1, "\xff\xff\xff\xff", testServerKey), 1},
	} {
		for how, fragment := range fragmentations {
			t.Run(c.name+", "+how, func(t *testing.T) {
				after := []byte("more")
				s2 := packet(77, "bad!") // no echo of C1
				conn := &rw{Reader: fragment(bytes.NewReader(concat([]byte{3}, c.s1, s2, after)))}
				require.NoError(t, ClientHandshake(conn, c.digest))
				rest, err := io.ReadAll(conn.Reader)
				require.NoError(t, err)
				require.Equal(t, after, rest)

				out := conn.Bytes()
				require.Len(t, out, 1+2*1536)
				require.Equal(t, byte(3), out[0])
				c1, c2 := out[1:1537], out[1537:]
				if c.digest {
					require.NotEqual(t, make([]byte, 4), c1[4:8])
					require.GreaterOrEqual(t, c1[4], byte(9), "Flash Player 9 was the first with digests")
					have, want := testDigest(c1, 0, testPlayerKey)
					require.Equal(t, want, have, "digest of C1")
				} else {
					require.Equal(t, make([]byte, 4), c1[4:8])
				}
				if c.schema < 0 {
					require.Equal(t, c.s1, c2)
					return
				}
				at := testDigestAt(c.s1, c.schema)
				key := testHMAC(testPlayerKey+testKeyTail, c.s1[at:at+32])
				require.Equal(t, testHMAC(string(key), c2[:1504]), c2[1504:], "digest of C2")
			})
		}
	}
}

func TestClientHandshakeRefusesOtherVersions(t *testing.T) {
	for _, v := range []byte{0, 2, 4, 6, 32, 'H'} {
		conn := &rw{Reader: bytes.NewReader(concat([]byte{v}, packet(1, ""), packet(2, "")))}
		require.ErrorIs(t, ClientHandshake(conn, false), ErrVersion, "%d", v)
		require.Equal(t, 1537, conn.Len(), "%d: C2 after a wrong S0", v)
	}
}

func TestClientHandshakeCut(t *testing.T) {
	all := concat([]byte{3}, packet(1, ""), packet(2, ""))
	for _, n := range []int{0, 1, 1536, 1537, 1538, 3072} {
		err := ClientHandshake(&rw{Reader: bytes.NewReader(all[:n])}, false)
		require.Error(t, err, n)
		require.True(t, isEOF(err), "%d: %v", n, err)
	}
}

// The answer of another protocol is recognised by its first byte, however short it is.
func TestClientHandshakeKnowsOtherProtocols(t *testing.T) {
	for _, c := range []struct {
		answer string
		other  bool
	}{
		{"\x15\x03\x03\x00\x02\x02\x46", true}, // an alert of TLS
		{"\x16\x03\x01", true},
		{"HTTP/1.1 400 Bad Request\r\n\r\n", true},
		{"H", true},
		{"\x06", false}, // RTMPE
		{"\x00", false},
		{"\x14", true},
		{"\x18", false},
		{"\x13", false},
	} {
		err := ClientHandshake(&rw{Reader: strings.NewReader(c.answer)}, false)
		require.ErrorIs(t, err, ErrVersion, "%q", c.answer)
		require.True(t, isEOF(err), "%q: %v", c.answer, err)
		var version VersionError
		require.ErrorAs(t, err, &version)
		require.Equal(t, c.answer[0], byte(version))
		require.Equal(t, c.other, version.OtherProtocol(), "%q", c.answer)
	}
}

// The pipe has no buffer, so sides that wait for each other deadlock. synctest reports it.
func TestHandshakeWithEachOther(t *testing.T) {
	for _, digest := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			done := make(chan error)
			go func() { done <- ServerHandshake(server) }()
			require.NoError(t, ClientHandshake(client, digest))
			require.NoError(t, <-done)
		})
	}
}

func TestHandshakeIsRandom(t *testing.T) {
	seen := make(map[string]bool)
	for range 8 {
		s := &rw{Reader: bytes.NewReader(concat([]byte{3}, packet(1, ""), packet(2, "")))}
		require.NoError(t, ServerHandshake(s))
		seen[string(s.Bytes()[9:1537])] = true
	}
	require.Len(t, seen, 8)
}

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
