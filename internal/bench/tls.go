//go:build linux

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// certificate is the certificate that TLS servers present: the destinations, and the
// server under test. file contains it and its key.
type certificate struct {
	file  string
	tls   tls.Certificate
	roots *x509.CertPool
}

func newCertificate(dir string) (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return certificate{}, err
	}
	der8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der8})...)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return certificate{}, err
	}
	c := certificate{filepath.Join(dir, "ca.pem"), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, x509.NewCertPool()}
	c.roots.AddCert(leaf)
	return c, os.WriteFile(c.file, both, 0o600)
}

// client returns the configuration of a client that trusts c. cache may be nil.
func (c certificate) client(cache tls.ClientSessionCache) *tls.Config {
	return &tls.Config{RootCAs: c.roots, ServerName: "127.0.0.1", ClientSessionCache: cache}
}

// secureListener is a destination that speaks TLS. A goroutine per connection decrypts,
// then processes the data while it holds the loop's mu.
type secureListener struct {
	l     *loop
	nl    net.Listener
	port  int
	tally *tally
	conns []*conn
	wg    sync.WaitGroup
}

// listenTLS starts a destination on any port.
func (l *loop) listenTLS(cert certificate, t *tally) (*secureListener, error) {
	nl, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.tls}})
	if err != nil {
		return nil, err
	}
	d := &secureListener{l: l, nl: nl, port: nl.Addr().(*net.TCPAddr).Port, tally: t}
	d.wg.Go(d.accept)
	return d, nil
}

func (d *secureListener) accept() {
	for {
		nc, err := d.nl.Accept()
		if err != nil {
			return
		}
		d.l.mu.Lock()
		c := newDestination(d.l, d.tally)
		c.tls = nc.(*tls.Conn)
		d.conns = append(d.conns, c)
		d.l.mu.Unlock()
		d.wg.Go(func() { c.readTLS() })
	}
}

// dialTLS starts a connection to the server on port of 127.0.0.1, over TLS. As for a
// destination, a goroutine decrypts.
func (l *loop) dialTLS(port int, r role, name string, cfg *tls.Config) (*conn, error) {
	nc, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil, err
	}
	nc.SetLinger(0) // see reset
	c := newClient(l, port, r, name)
	c.tls = tls.Client(nc, cfg)
	l.clients.Go(func() {
		err := c.tls.Handshake()
		l.mu.Lock()
		if err == nil && c.stage != stageClosed {
			err = c.open()
		}
		if err != nil {
			c.fail(err)
		}
		l.mu.Unlock()
		if err == nil {
			c.readTLS()
		}
	})
	return c, nil
}

// readTLS reads the connection until it ends.
func (c *conn) readTLS() {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.tls.Read(buf)
		c.l.mu.Lock()
		if n > 0 {
			if ferr := c.feed(buf[:n]); ferr != nil {
				err = ferr
			}
		}
		if err != nil {
			c.fail(err)
		}
		c.l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close ends the listener and its connections. The caller holds the loop's mu; close
// unlocks it while it waits.
func (d *secureListener) close() {
	d.l.mu.Unlock()
	d.nl.Close()
	d.l.mu.Lock()
	for _, c := range d.conns {
		c.reset()
	}
	d.l.mu.Unlock()
	d.wg.Wait()
	d.l.mu.Lock()
}

// sealing returns the CPU seconds per byte of bare AES-GCM on the server's CPU, in
// records of TLS's largest size. It is 0 for a server without TLS.
func (s server) sealing(cpus placement) (float64, error) {
	if !s.tls {
		return 0, nil
	}
	block, err := aes.NewCipher(filler[:16])
	if err != nil {
		return 0, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return 0, err
	}
	if err := pin(cpus.server); err != nil {
		return 0, err
	}
	const record, records, ownTime = 16 << 10, 8192, 3 // CLOCK_THREAD_CPUTIME_ID
	out := make([]byte, 0, record+aead.Overhead())
	began := clock(ownTime)
	for i := range records {
		from := i * fillerStep % fillerSpan
		aead.Seal(out, filler[:aead.NonceSize()], filler[from:from+record], filler[:5])
	}
	took := clock(ownTime) - began
	return took.Seconds() / (record * records), pin(cpus.load...)
}
