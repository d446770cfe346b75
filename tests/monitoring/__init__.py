"""What others see of runners: Prometheus, OpenTelemetry, logs, the dashboard, the command line."""
