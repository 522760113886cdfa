package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAdaptCaddyfile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		verbose bool
		level   string
		logs    int
	}{
		"quiet":   {false, "WARN", 2},
		"verbose": {true, "DEBUG", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := adaptCaddyfile([]byte("http://localhost:1 {\n\trespond 404\n}\n"), "test", tt.verbose)
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				Apps    map[string]any
				Logging struct {
					Logs map[string]struct{ Level string }
				}
			}
			err = json.Unmarshal(b, &config)
			if err != nil {
				t.Fatal(err)
			}
			if config.Apps["http"] == nil || config.Logging.Logs["default"].Level != tt.level || len(config.Logging.Logs) != tt.logs {
				t.Errorf("got %s", b)
			}
		})
	}
}

func TestAdaptCaddyfileNamesThePlace(t *testing.T) {
	t.Parallel()
	_, err := adaptCaddyfile([]byte("http://localhost:1 {\n\tnonsense\n}\n"), "Caddyfile.test", false)
	if err == nil || !strings.Contains(err.Error(), "Caddyfile.test:2") {
		t.Errorf("err = %v", err)
	}
}
