package table_test

import (
	"os"
	"testing"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("TABLE_OF_CHILD"); path != "" {
		child(path)
		return
	}
	os.Exit(secretscan.Main(m))
}

const canary = secretscan.Canary
