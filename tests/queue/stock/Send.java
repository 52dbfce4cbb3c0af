import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.instrumentation.awssdk.v2_2.AwsSdkTelemetry;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import java.net.URI;
import software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.sqs.SqsClient;

/** Sends one message as any Java service with OpenTelemetry does, and prints the id of its trace. */
public class Send {
  public static void main(String[] arguments) {
    OpenTelemetrySdk sdk = OpenTelemetrySdk.builder()
        .setTracerProvider(SdkTracerProvider.builder().build())
        .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
        .build();
    AwsSdkTelemetry telemetry = AwsSdkTelemetry.builder(sdk)
        .setUseConfiguredPropagatorForMessaging(true).build();
    try (SqsClient client = telemetry.wrap(SqsClient.builder()
        .endpointOverride(URI.create(arguments[0]))
        .region(Region.US_EAST_1)
        .credentialsProvider(AnonymousCredentialsProvider.create())
        .overrideConfiguration(c -> c.addExecutionInterceptor(telemetry.newExecutionInterceptor()))
        .build())) {
      Span span = sdk.getTracer("stock").spanBuilder("order").startSpan();
      try (Scope scope = span.makeCurrent()) {
        client.sendMessage(m -> m.queueUrl(arguments[1]).messageBody("{\"text\": \"from Java\"}"));
      }
      span.end();
      System.out.println(span.getSpanContext().getTraceId());
    }
  }
}
