package rtmp

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

const (
	version       = 3
	handshakeSize = 1536
	digestSize    = sha256.Size
)

// ErrVersion is the error for a peer whose first byte is not the version of plain RTMP.
// The peer speaks an encrypted variant, or another protocol.
var ErrVersion = errors.New("handshake: version is not 3")

// VersionError is the first byte of a peer that does not speak plain RTMP. It wraps
// ErrVersion.
type VersionError byte

func (e VersionError) Error() string { return fmt.Sprintf("%v (%d)", ErrVersion, byte(e)) }

// Unwrap returns ErrVersion.
func (e VersionError) Unwrap() error { return ErrVersion }

// OtherProtocol reports whether the byte begins a TLS record (RFC 8446, 5.1), an HTTP/1
// answer (RFC 9112, 4), or a page that an HTTP server sends without a header.
func (e VersionError) OtherProtocol() bool { return 20 <= e && e <= 23 || e == 'H' || e == '<' }

// The keys of the digest handshake. A partial key is the text alone; a full key is the
// text and the tail. Flash Player and Flash Media Server have the same tail.
var (
	keyTail = []byte{
		0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1,
		0x02, 0x9e, 0x7e, 0x57, 0x6e, 0xec, 0x5d, 0x2d, 0x29, 0x80, 0x6f, 0xab,
		0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
	}
	playerKey     = []byte("Genuine Adobe Flash Player 001")
	serverKey     = []byte("Genuine Adobe Flash Media Server 001")
	playerKeyFull = slices.Concat(playerKey, keyTail)
	serverKeyFull = slices.Concat(serverKey, keyTail)
)

// handshakes holds the buffers of servers' handshakes. Without a pool they would be most
// of the garbage when thousands of clients join at the same time.
var handshakes = sync.Pool{New: func() any { return new([1 + 3*handshakeSize]byte) }}

// ServerHandshake performs the server's side on rw (RTMP 1.0, 5.2). It uses digests if C1
// contains a valid one in either schema. It writes once, and does not read past C2. It
// ignores the content of C2: too many clients do not send the echo that the specification
// requires.
func ServerHandshake(rw io.ReadWriter) error {
	var c0 [1]byte
	if _, err := io.ReadFull(rw, c0[:]); err != nil {
		return fmt.Errorf("handshake: read C0: %w", err)
	}
	if c0[0] != version {
		return VersionError(c0[0])
	}
	// A client that has sent nothing takes no buffer.
	buf := handshakes.Get().(*[1 + 3*handshakeSize]byte)
	defer handshakes.Put(buf)
	c1, s := buf[:handshakeSize], buf[handshakeSize:]
	if _, err := io.ReadFull(rw, c1); err != nil {
		return fmt.Errorf("handshake: read C1: %w", err)
	}

	s[0] = version
	clear(s[1:9])
	s1, s2 := s[1:1+handshakeSize], s[1+handshakeSize:]
	fillRandom(s1[8:])
	if schema, digest := findDigest(c1, playerKey); digest != nil {
		copy(s1[4:8], []byte{5, 0, 1, 1})
		at := schema(s1)
		copy(s1[at:], digestOf(s1, at, serverKey))
		fillRandom(s2[:handshakeSize-digestSize])
		sign(s2, serverKeyFull, digest)
	} else {
		copy(s2, c1)
	}
	if _, err := rw.Write(s); err != nil {
		return fmt.Errorf("handshake: write S0, S1, S2: %w", err)
	}
	if _, err := io.ReadFull(rw, c1); err != nil {
		return fmt.Errorf("handshake: read C2: %w", err)
	}
	return nil
}

// ClientHandshake performs the client's side on rw, with digests if digest is set. C2 is
// an exact echo of S1, as strict servers require, or signed if both sides use digests.
// The content of S2 is ignored. The error is a VersionError, or wraps one, if the server
// answers with another protocol.
func ClientHandshake(rw io.ReadWriter, digest bool) error {
	c := make([]byte, 1+handshakeSize)
	c[0] = version
	c1 := c[1:]
	fillRandom(c1[8:])
	if digest {
		copy(c1[4:8], []byte{9, 0, 124, 2})
		at := schema0(c1)
		copy(c1[at:], digestOf(c1, at, playerKey))
	}
	if _, err := rw.Write(c); err != nil {
		return fmt.Errorf("handshake: write C0, C1: %w", err)
	}
	s := make([]byte, 1+handshakeSize)
	n, err := io.ReadFull(rw, s)
	switch other := n > 0 && s[0] != version; {
	case other && err != nil:
		return fmt.Errorf("%w: %w", VersionError(s[0]), err)
	case other:
		return VersionError(s[0])
	case err != nil:
		return fmt.Errorf("handshake: read S0, S1: %w", err)
	}
	// S2 is read before C2 is sent, as ffmpeg does: a server may not read before it
	// has written S2.
	var s2 [handshakeSize]byte
	if _, err := io.ReadFull(rw, s2[:]); err != nil {
		return fmt.Errorf("handshake: read S2: %w", err)
	}
	c2 := s[1:]
	if digest {
		if _, d := findDigest(c2, serverKey); d != nil {
			c2 = c1
			fillRandom(c2[:handshakeSize-digestSize])
			sign(c2, playerKeyFull, d)
		}
	}
	if _, err := rw.Write(c2); err != nil {
		return fmt.Errorf("handshake: write C2: %w", err)
	}
	return nil
}

// schema0 and schema1 return the two possible offsets of the digest in C1 or S1.
func schema0(p []byte) int { return sum4(p[8:12])%728 + 12 }
func schema1(p []byte) int { return sum4(p[772:776])%728 + 776 }

// findDigest returns the digest in p that was made with key, and its schema. Both are nil
// if there is none.
func findDigest(p, key []byte) (schema func([]byte) int, digest []byte) {
	if bytes.Equal(p[4:8], make([]byte, 4)) {
		return nil, nil
	}
	for _, schema := range []func([]byte) int{schema0, schema1} {
		at := schema(p)
		if d := p[at : at+digestSize]; hmac.Equal(d, digestOf(p, at, key)) {
			return schema, d
		}
	}
	return nil, nil
}

// digestOf returns the digest of p. The digest's own bytes, at offset at, are left out.
func digestOf(p []byte, at int, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(p[:at])
	m.Write(p[at+digestSize:])
	return m.Sum(nil)
}

// sign writes the response to a peer's digest into the last bytes of p.
func sign(p, key, digest []byte) {
	m := hmac.New(sha256.New, key)
	m.Write(digest)
	m = hmac.New(sha256.New, m.Sum(nil))
	m.Write(p[:handshakeSize-digestSize])
	copy(p[handshakeSize-digestSize:], m.Sum(nil))
}

func sum4(p []byte) int {
	return int(p[0]) + int(p[1]) + int(p[2]) + int(p[3])
}

func fillRandom(p []byte) {
	rand.Read(p) // never fails: crypto/rand ends the process instead
}
