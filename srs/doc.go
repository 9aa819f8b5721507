// Package srs is for those that come from SRS: its configuration file (LoadConfig) and
// its HTTP callbacks (Hooks).
package srs
