//go:build linux

package main

import (
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

// certificate is the certificate of the TLS destinations. The server under test trusts
// the one in file.
type certificate struct {
	file string
	tls  tls.Certificate
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
	c := certificate{filepath.Join(dir, "ca.pem"), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	return c, os.WriteFile(c.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
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
		c.tls = nc
		d.conns = append(d.conns, c)
		d.l.mu.Unlock()
		d.wg.Go(func() { c.readTLS() })
	}
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
