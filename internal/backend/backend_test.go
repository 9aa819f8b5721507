package backend

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:8085/api/v1/forward":                  "http://127.0.0.1:8085/api/v1/forward",
		"https://u:p@h/x?y=z":                                   "https://***@h/x?***",
		"https://hooks.example/services/T0001ABCD/B00/x9y8z7w6": "https://hooks.example/services/***/B00/***",
		"http://h":                     "http://h",
		"http://[::1]:80/%2f%2fsecret": "http://[::1]:80/***",
		"://":                          "***",
	} {
		require.Equal(t, want, Redact(in), in)
	}
}
